// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.34;

import {IModelTokenRegistry} from "../src/IModelTokenRegistry.sol";
import {ModelToken} from "../src/ModelToken.sol";
import {ModelTokenRegistry} from "../src/ModelTokenRegistry.sol";
import {Vm, vm} from "./Cheats.sol";
import {Records} from "./Records.sol";

/// @dev Registers at random, alone and in batches, out of so few symbols and versions that most have been there before,
/// and says of each record beforehand what must become of it. What it records is the model that the invariants hold
/// the registry to. A second registry gets the same records one by one.
contract Registrations {
    ModelTokenRegistry public immutable registry;
    ModelTokenRegistry public immutable single;

    string[6] public symbols = ["A", "a", "MSG-AI", "msg-AI", "0", "a-symbol-of-more-than-thirty-two-characters"];
    string[2] public modelNames = ["model", "another"];
    string[3] public modelVersions = ["1", "2", "a version of more than eleven bytes"];

    /// @dev What must be recorded: how many versions a symbol has, which number each has, what the first was.
    mapping(bytes32 symbolKey => uint256) public versions;
    mapping(bytes32 versionKey => uint256) public numbers;
    mapping(bytes32 symbolKey => IModelTokenRegistry.ModelRecord) private _firsts;
    mapping(bytes32 symbolKey => IModelTokenRegistry.ModelRecord) private _latests;

    constructor() {
        registry = new ModelTokenRegistry(address(0xA1), address(0xA2), address(this), 0, address(0));
        single = new ModelTokenRegistry(address(0xA1), address(0xA2), address(this), 0, address(0));
    }

    function register(uint256 seed) external {
        IModelTokenRegistry.ModelRecord memory record = _record(seed, false);
        IModelTokenRegistry.Outcome expected = _expect(record);
        _assertOutcome(registry.register(record), expected);
        _assertOutcome(single.register(record), expected);
    }

    function registerMany(uint256[] memory seeds) external {
        uint256 count = seeds.length > 12 ? 12 : seeds.length;
        IModelTokenRegistry.ModelRecord[] memory records = new IModelTokenRegistry.ModelRecord[](count);
        for (uint256 i = 0; i < count; ++i) records[i] = _record(seeds[i], true);

        vm.recordLogs();
        IModelTokenRegistry.Outcome[] memory outcomes = registry.registerMany(records);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        vm.assertEq(outcomes.length, count, "an outcome for each");
        vm.assertEq(logs.length, count, "an event for each");
        for (uint256 i = 0; i < count; ++i) {
            IModelTokenRegistry.Outcome expected = _expect(records[i]);
            _assertOutcome(outcomes[i], expected);
            vm.assertEq(logs[i].topics[0], _topic(expected), "the event is the outcome's");
            if (expected == IModelTokenRegistry.Outcome.Refused) {
                vm.assertEq(uint256(logs[i].topics[1]), i, "the position of the refused");
            } else {
                vm.assertEq(logs[i].topics[2], _versionKeyOf(records[i]), "version key");
                _assertOutcome(single.register(records[i]), expected);
            }
        }
    }

    function first(string memory symbol) external view returns (IModelTokenRegistry.ModelRecord memory) {
        return _firsts[symbolKey(symbol)];
    }

    function latest(string memory symbol) external view returns (IModelTokenRegistry.ModelRecord memory) {
        return _latests[symbolKey(symbol)];
    }

    function symbolKey(string memory symbol) public pure returns (bytes32) {
        return keccak256(bytes(Records.lower(symbol)));
    }

    function versionKey(string memory symbol, string memory modelName, string memory modelVersion)
        public
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(symbolKey(symbol), keccak256(bytes(modelName)), keccak256(bytes(modelVersion))));
    }

    function _versionKeyOf(IModelTokenRegistry.ModelRecord memory record) private pure returns (bytes32) {
        return versionKey(record.symbol, record.modelName, record.modelVersion);
    }

    /// @dev What must become of the record, and the model brought up to it.
    function _expect(IModelTokenRegistry.ModelRecord memory record)
        private
        returns (IModelTokenRegistry.Outcome)
    {
        if (!_fits(record)) return IModelTokenRegistry.Outcome.Refused;
        bytes32 symbol = symbolKey(record.symbol);
        bytes32 version = _versionKeyOf(record);
        if (numbers[version] != 0) return IModelTokenRegistry.Outcome.AlreadyRecorded;
        numbers[version] = ++versions[symbol];
        _latests[symbol] = record;
        if (versions[symbol] != 1) return IModelTokenRegistry.Outcome.VersionRecorded;
        _firsts[symbol] = record;
        return IModelTokenRegistry.Outcome.TokenCreated;
    }

    function _fits(IModelTokenRegistry.ModelRecord memory record) private pure returns (bool) {
        return bytes(record.modelId).length != 0 && bytes(record.runId).length <= 256
            && record.current >= record.baseline && keccak256(bytes(record.symbol)) != keccak256("no symbol");
    }

    /// @dev A record out of the few there are; one of four has something wrong with it, if it may.
    function _record(uint256 seed, bool mayBeWrong)
        private
        view
        returns (IModelTokenRegistry.ModelRecord memory record)
    {
        uint256 random = uint256(keccak256(abi.encode(seed)));
        record = Records.usual(symbols[random % 6], modelNames[(random >> 16) % 2], modelVersions[(random >> 32) % 3]);
        record.contributor = address(uint160(random >> 96));
        record.current = record.baseline + int128(uint128(uint64(random >> 48)));
        if (!mayBeWrong || (random >> 64) % 4 != 0) return record;
        uint256 fault = (random >> 72) % 4;
        if (fault == 0) record.modelId = "";
        else if (fault == 1) record.runId = Records.repeated("r", 257);
        else if (fault == 2) record.current = record.baseline - 1;
        else record.symbol = "no symbol";
    }

    function _topic(IModelTokenRegistry.Outcome outcome) private pure returns (bytes32) {
        if (outcome == IModelTokenRegistry.Outcome.TokenCreated) return IModelTokenRegistry.TokenCreated.selector;
        if (outcome == IModelTokenRegistry.Outcome.VersionRecorded) return IModelTokenRegistry.VersionRecorded.selector;
        if (outcome == IModelTokenRegistry.Outcome.AlreadyRecorded) return IModelTokenRegistry.AlreadyRecorded.selector;
        return IModelTokenRegistry.RecordRefused.selector;
    }

    function _assertOutcome(IModelTokenRegistry.Outcome actual, IModelTokenRegistry.Outcome expected) private pure {
        vm.assertEq(uint256(actual), uint256(expected), "outcome");
    }
}

/// @dev After whatever has been registered: a symbol has one token, a version is recorded once, a batch did what its
/// parts do, and what the first version said stays.
contract InvariantsTest {
    Registrations private registrations;

    function setUp() public {
        registrations = new Registrations();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(registrations);
    }

    function invariant_the_registry_holds_what_was_registered_however_it_came() public view {
        _assertHolds(registrations.registry());
        _assertHolds(registrations.single());
    }

    function _assertHolds(ModelTokenRegistry registry) private view {
        for (uint256 i = 0; i < 6; ++i) {
            string memory symbol = registrations.symbols(i);
            uint256 versions = registrations.versions(registrations.symbolKey(symbol));
            address token = registry.tokenOf(symbol);
            vm.assertEq(token, versions == 0 ? address(0) : registry.tokenAddress(symbol), "one address for a symbol");
            for (uint256 j = 0; j < i; ++j) _assertApart(registry, symbol, registrations.symbols(j));
            _assertNumbers(registry, symbol, versions);
            if (versions != 0) _assertToken(ModelToken(token), symbol, versions);
        }
        (bool answered, bytes memory code) = address(registry).staticcall("");
        vm.assertTrue(answered && code.length == 0, "nothing is left under construction");
    }

    /// @dev Two symbols share a token if they differ in case alone.
    function _assertApart(ModelTokenRegistry registry, string memory symbol, string memory other) private view {
        bool same = registrations.symbolKey(symbol) == registrations.symbolKey(other);
        bool together = registry.tokenAddress(symbol) == registry.tokenAddress(other);
        vm.assertTrue(together == same, "one token for a symbol");
    }

    /// @dev Each number from one to the count is given once.
    function _assertNumbers(ModelTokenRegistry registry, string memory symbol, uint256 versions) private view {
        uint256 given = 0;
        for (uint256 n = 0; n < 2; ++n) {
            for (uint256 v = 0; v < 3; ++v) {
                string memory name = registrations.modelNames(n);
                string memory version = registrations.modelVersions(v);
                uint256 number = registry.versionNumber(IModelTokenRegistry.VersionId(symbol, name, version));
                vm.assertEq(number, registrations.numbers(registrations.versionKey(symbol, name, version)), "number");
                if (number == 0) continue;
                vm.assertTrue(given & 1 << number == 0, "no number twice");
                given |= 1 << number;
            }
        }
        vm.assertEq(given, (1 << versions + 1) - 2, "all numbers up to the count");
    }

    function _assertToken(ModelToken token, string memory symbol, uint256 versions) private view {
        IModelTokenRegistry.ModelRecord memory first = registrations.first(symbol);
        IModelTokenRegistry.ModelRecord memory latest = registrations.latest(symbol);
        vm.assertEq(token.symbol(), first.symbol, "symbol");
        vm.assertEq(token.modelId(), first.modelId, "model id");
        vm.assertEq(token.contributor(), first.contributor, "contributor");
        vm.assertEq(token.baselineMetric(), first.baseline, "baseline");
        vm.assertEq(token.versionCount(), versions, "count");
        vm.assertEq(token.latestVersion(), latest.modelVersion, "latest version");
        vm.assertEq(token.currentMetric(), latest.current, "current metric");
        vm.assertEq(token.totalSupply(), 0, "supply");
    }
}
