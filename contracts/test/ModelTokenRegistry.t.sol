// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.34;

import {IModelTokenRegistry} from "../src/IModelTokenRegistry.sol";
import {ModelToken} from "../src/ModelToken.sol";
import {ModelTokenRegistry} from "../src/ModelTokenRegistry.sol";
import {vm} from "./Cheats.sol";
import {Records} from "./Records.sol";

/// @dev What must hold of any record; the crate's tests hold the registry to examples on a chain.
contract ModelTokenRegistryTest {
    ModelTokenRegistry private registry;
    address private constant OWNER = address(0xA1);
    address private constant CONTROLLER = address(0xA2);

    function setUp() public {
        registry = new ModelTokenRegistry(OWNER, CONTROLLER, address(this), 0, address(0));
    }

    function testFuzz_a_token_carries_its_first_version(IModelTokenRegistry.ModelRecord memory record) public {
        record = Records.fit(record);
        address predicted = registry.tokenAddress(record.symbol);
        _expect(registry.register(record), IModelTokenRegistry.Outcome.TokenCreated);
        vm.assertEq(registry.tokenOf(record.symbol), predicted, "address");
        vm.assertEq(registry.versionNumber(Records.versionId(record)), 1, "number");
        _assertCarries(ModelToken(predicted), record);
        (bool answered, bytes memory code) = address(registry).staticcall("");
        vm.assertTrue(answered && code.length == 0, "nothing is left under construction");
    }

    function test_texts_as_long_as_they_may_be_are_carried_and_recognised() public {
        IModelTokenRegistry.ModelRecord memory record = IModelTokenRegistry.ModelRecord({
            symbol: Records.repeated("S", 64),
            modelName: Records.repeated("n", 256),
            modelVersion: Records.repeated("v", 256),
            modelId: Records.repeated("i", 1024),
            runId: Records.repeated("r", 256),
            metricName: Records.repeated("m", 256),
            baseline: type(int128).min,
            current: type(int128).max,
            lowerIsBetter: false,
            contributor: address(type(uint160).max)
        });
        _expect(registry.register(record), IModelTokenRegistry.Outcome.TokenCreated);
        _assertCarries(ModelToken(registry.tokenAddress(record.symbol)), record);
        _expect(registry.register(record), IModelTokenRegistry.Outcome.AlreadyRecorded);
        record.modelVersion = Records.repeated("v", 255);
        _expect(registry.register(record), IModelTokenRegistry.Outcome.VersionRecorded);
        _expect(registry.register(record), IModelTokenRegistry.Outcome.AlreadyRecorded);
    }

    /// @dev Where a name ends and its version begins is part of what a version is.
    function test_a_version_is_not_another_that_reads_the_same() public {
        IModelTokenRegistry.ModelRecord memory record = Records.usual("MSG-AI", "ab", "c");
        _expect(registry.register(record), IModelTokenRegistry.Outcome.TokenCreated);
        _expect(registry.register(Records.usual("MSG-AI", "a", "bc")), IModelTokenRegistry.Outcome.VersionRecorded);
        _expect(registry.register(record), IModelTokenRegistry.Outcome.AlreadyRecorded);
    }

    /// @dev As many decimals and digits as a metric may have, and as few.
    function testFuzz_metrics_come_back_as_they_went(int64 baseline, int64 current, uint8 zeros, bool lowerIsBetter)
        public
    {
        int128 power = int128(int256(10 ** (zeros % 20)));
        IModelTokenRegistry.ModelRecord memory record = Records.usual("MSG-AI", "model", "1");
        (record.baseline, record.current) = (int128(baseline) * power, int128(current) * power);
        record.lowerIsBetter = lowerIsBetter;
        Records.fit(record);
        registry.register(record);
        _assertCarries(ModelToken(registry.tokenAddress(record.symbol)), record);
    }

    function testFuzz_a_repeat_changes_nothing(
        IModelTokenRegistry.ModelRecord memory record,
        IModelTokenRegistry.ModelRecord memory other
    ) public {
        record = Records.fit(record);
        registry.register(record);
        other = Records.fit(other);
        other.symbol = Records.turned(record.symbol);
        other.modelName = record.modelName;
        other.modelVersion = record.modelVersion;
        _expect(registry.register(other), IModelTokenRegistry.Outcome.AlreadyRecorded);
        _assertCarries(ModelToken(registry.tokenAddress(record.symbol)), record);
    }

    function testFuzz_a_later_version_leaves_the_first(
        IModelTokenRegistry.ModelRecord memory first,
        IModelTokenRegistry.ModelRecord memory second,
        bool sameMetric
    ) public {
        first = Records.fit(first);
        second = Records.fit(second);
        second.symbol = Records.turned(first.symbol);
        second.metricName = sameMetric ? first.metricName : string.concat("not", first.metricName);
        if (bytes(second.metricName).length > 256) second.metricName = "other";
        sameMetric = sameMetric && first.lowerIsBetter == second.lowerIsBetter;
        if (registry.versionNumber(Records.versionId(second)) != 0) return;
        registry.register(first);
        if (keccak256(abi.encode(Records.versionId(first).modelName, first.modelVersion))
                == keccak256(abi.encode(second.modelName, second.modelVersion))) return;

        _expect(registry.register(second), IModelTokenRegistry.Outcome.VersionRecorded);
        _expect(registry.register(second), IModelTokenRegistry.Outcome.AlreadyRecorded);
        _expect(registry.register(first), IModelTokenRegistry.Outcome.AlreadyRecorded);
        ModelToken token = ModelToken(registry.tokenAddress(first.symbol));
        vm.assertEq(token.versionCount(), 2, "count");
        vm.assertEq(token.latestVersion(), second.modelVersion, "latest");
        vm.assertEq(token.currentMetric(), sameMetric ? second.current : first.current, "current");
        vm.assertEq(token.baselineMetric(), first.baseline, "baseline");
        vm.assertEq(token.contributor(), first.contributor, "contributor");
    }

    /// forge-config: default.fuzz.runs = 50
    function testFuzz_a_batch_does_what_single_calls_do(IModelTokenRegistry.ModelRecord[] memory records) public {
        ModelTokenRegistry single = new ModelTokenRegistry(OWNER, CONTROLLER, address(this), 0, address(0));
        // What the fuzzer makes up is hardly ever a record; every third is left as it is.
        for (uint256 i = 0; i < records.length; ++i) if (i % 3 != 2) Records.fit(records[i]);
        IModelTokenRegistry.Outcome[] memory outcomes = registry.registerMany(records);
        for (uint256 i = 0; i < records.length; ++i) {
            try single.register(records[i]) returns (IModelTokenRegistry.Outcome outcome) {
                _expect(outcomes[i], outcome);
            } catch (bytes memory reason) {
                vm.assertTrue(bytes4(reason) == IModelTokenRegistry.InvalidRecord.selector, "refused");
                _expect(outcomes[i], IModelTokenRegistry.Outcome.Refused);
            }
        }
    }

    function testFuzz_strangers_do_nothing(address stranger, IModelTokenRegistry.ModelRecord memory record) public {
        if (stranger == address(this) || stranger == OWNER || stranger == CONTROLLER) return;
        record = Records.fit(record);
        registry.register(record);
        address token = registry.tokenAddress(record.symbol);
        vm.expectPartialRevert(IModelTokenRegistry.MissingRole.selector);
        vm.prank(stranger);
        registry.register(record);
        vm.expectPartialRevert(bytes4(keccak256("OwnableUnauthorizedAccount(address)")));
        vm.prank(stranger);
        registry.grantRole(IModelTokenRegistry.Role.Deployer, stranger);
        vm.expectPartialRevert(bytes4(keccak256("NotController(address)")));
        vm.prank(stranger);
        ModelToken(token).mint(stranger, 1);
        vm.expectPartialRevert(bytes4(keccak256("NotRegistry(address)")));
        vm.prank(stranger);
        ModelToken(token).mintInitialSupply(stranger, 1);
    }

    function testFuzz_a_call_of_no_function_is_an_error(bytes memory data) public {
        bytes memory unknown = bytes.concat(hex"ffffffff", data);
        (bool answered, bytes memory reason) = address(registry).call(unknown);
        vm.assertTrue(!answered && bytes4(reason) == ModelTokenRegistry.UnknownFunction.selector, "long");
        (answered, reason) = address(registry).call(hex"00");
        vm.assertTrue(!answered && bytes4(reason) == ModelTokenRegistry.UnknownFunction.selector, "short");
    }

    function testFuzz_code_that_is_no_token_has_no_version(bytes memory code) public {
        address stranger = address(0xC0DE);
        vm.etch(stranger, code);
        vm.assertEq(registry.latestVersion(stranger).number, 0, "number");
    }

    function _assertCarries(ModelToken token, IModelTokenRegistry.ModelRecord memory record) private view {
        vm.assertEq(token.symbol(), record.symbol, "symbol");
        vm.assertEq(token.name(), string.concat("Hokusai ", record.symbol), "name");
        vm.assertEq(token.modelName(), record.modelName, "model name");
        vm.assertEq(token.modelVersion(), record.modelVersion, "model version");
        vm.assertEq(token.modelId(), record.modelId, "model id");
        vm.assertEq(token.metricName(), record.metricName, "metric name");
        vm.assertEq(token.baselineMetric(), record.baseline, "baseline");
        vm.assertEq(token.currentMetric(), record.current, "current");
        vm.assertEq(token.contributor(), record.contributor, "contributor");
        vm.assertTrue(token.lowerIsBetter() == record.lowerIsBetter, "direction");
        vm.assertEq(token.latestVersion(), record.modelVersion, "latest version");
        vm.assertEq(token.versionCount(), 1, "count");
    }

    function _expect(IModelTokenRegistry.Outcome actual, IModelTokenRegistry.Outcome expected) private pure {
        vm.assertEq(uint256(actual), uint256(expected), "outcome");
    }
}
