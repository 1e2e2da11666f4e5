// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.34;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {Create2} from "@openzeppelin/contracts/utils/Create2.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {LibString} from "solady/src/utils/LibString.sol";
import {LibTransient} from "solady/src/utils/LibTransient.sol";
import {IModelTokenRegistry} from "./IModelTokenRegistry.sol";
import {ModelToken} from "./ModelToken.sol";
import {TokenCode} from "./TokenCode.sol";

/// @title Factory and registry of model tokens
/// @notice Who may do what. Deployers register. Controllers mint, on the tokens. The owner grants and revokes both
/// roles and pauses registration; ownership moves in two steps and cannot be renounced. Nobody can change what has
/// been recorded.
///
/// Exactly once. A token's address is CREATE2 of this registry, the symbol key and one constant init code, so a symbol
/// has one address and that address can be created once. Whether it has been is asked of its code, before creating.
/// The init code asks this contract for the token's code (`fallback`), which is held in transient storage for the
/// length of that one creation: what the token carries does not change where it is.
///
/// What is stored. The first version of a token is in the token's code and nowhere in storage. From the second version
/// on, a version has one slot in `_versionNumbers` and the token has one in `_latest`.
contract ModelTokenRegistry is IModelTokenRegistry, Ownable2Step, Pausable {
    using LibTransient for LibTransient.TBytes;

    /// @notice The latest version of a token that has more than one.
    struct Latest {
        int128 metric;
        uint32 number;
        /// @dev The version's text if it fits `shortVersion`, else empty and the text is in `_longVersions`.
        uint8 shortVersionBytes;
        bytes11 shortVersion;
    }

    bytes32 private constant INTERFACE_VERSION = keccak256("hokusai.IModelTokenRegistry.1");

    uint256 private constant MAX_SYMBOL_BYTES = 64;
    uint256 private constant MAX_TEXT_BYTES = 256;
    uint256 private constant MAX_MODEL_ID_BYTES = 1024;
    /// @dev Letters, digits and the hyphen, as LibString wants it: one bit per character.
    uint128 private constant SYMBOL_CHARACTERS = LibString.ALPHANUMERIC_7_BIT_ASCII | uint128(1 << 0x2d);

    /// @dev Any slot would do: transient storage holds nothing else.
    uint256 private constant TOKEN_UNDER_CONSTRUCTION = 0;

    /// @notice The implementation behind every token.
    address public immutable tokenImplementation;
    /// @notice What every token starts with, and who gets it. Fixed for ever; both zero for none.
    uint256 public immutable initialSupply;
    address public immutable initialSupplyRecipient;
    bytes32 private immutable _initCodeHash;

    mapping(Role role => mapping(address account => bool)) private _roles;
    mapping(bytes32 versionKey => uint256 number) private _versionNumbers;
    mapping(address token => Latest) private _latest;
    mapping(address token => string) private _longVersions;

    /// @notice An initial supply needs somebody to get it, and nobody gets nothing.
    error InitialSupplyWithoutRecipient(uint256 supply, address recipient);

    /// @notice This contract has no such function.
    error UnknownFunction();

    /// @notice Without an owner nobody could take a lost deployer key's role away.
    error OwnerRequired();

    constructor(
        address owner,
        address controller,
        address deployer,
        uint256 initialSupply_,
        address initialSupplyRecipient_
    ) Ownable(owner) {
        require(
            (initialSupply_ == 0) == (initialSupplyRecipient_ == address(0)),
            InitialSupplyWithoutRecipient(initialSupply_, initialSupplyRecipient_)
        );
        tokenImplementation = address(new ModelToken(address(this)));
        initialSupply = initialSupply_;
        initialSupplyRecipient = initialSupplyRecipient_;
        _initCodeHash = keccak256(_initCode());
        _setRole(Role.Controller, controller, true);
        _setRole(Role.Deployer, deployer, true);
    }

    // ---- Registering ----

    /// @inheritdoc IModelTokenRegistry
    function register(ModelRecord calldata record) external whenNotPaused returns (Outcome) {
        _checkRole(Role.Deployer);
        ModelRecord memory wanted = record;
        Refusal refusal = _refusal(wanted);
        require(refusal == Refusal.None, InvalidRecord(refusal));
        return _record(wanted);
    }

    /// @inheritdoc IModelTokenRegistry
    function registerMany(ModelRecord[] calldata records)
        external
        whenNotPaused
        returns (Outcome[] memory outcomes)
    {
        _checkRole(Role.Deployer);
        outcomes = new Outcome[](records.length);
        uint256 scratch = _freeMemory();
        for (uint256 item = 0; item < records.length; ++item) {
            // What an item needed of memory, the next one uses again: the price of memory rises with its square.
            _freeMemoryFrom(scratch);
            // Copied once: each look into calldata checks all bounds again.
            ModelRecord memory record = records[item];
            Refusal refusal = _refusal(record);
            if (refusal == Refusal.None) {
                outcomes[item] = _record(record);
            } else {
                outcomes[item] = Outcome.Refused;
                emit RecordRefused(item, refusal);
            }
        }
    }

    /// @dev `record` has been checked. Reverts only for want of gas: an outcome that depended on how much gas is left
    /// would make gas estimates lie.
    function _record(ModelRecord memory record) private returns (Outcome) {
        bytes32 symbolKey = _symbolKey(record.symbol);
        bytes32 versionKey = _versionKey(symbolKey, record.modelName, record.modelVersion);
        address token = _tokenAddress(symbolKey);


        if (token.code.length == 0) {
            _createToken(symbolKey, record);
            emit TokenCreated(token, versionKey, record.symbol, record.modelId, record.runId);
            return Outcome.TokenCreated;
        }
        bytes memory code = token.code;
        bool isFirst = TokenCode.isFirstVersion(code, record.modelName, record.modelVersion);
        if (isFirst || _versionNumbers[versionKey] != 0) {
            emit AlreadyRecorded(token, versionKey);
            return Outcome.AlreadyRecorded;
        }
        uint256 number = _recordLater(token, versionKey, TokenCode.decode(code), record);
        _emitVersionRecorded(token, versionKey, number, record);
        return Outcome.VersionRecorded;
    }

    /// @dev There is no code at the symbol's address yet: creating over existing code would burn most of the gas.
    function _createToken(bytes32 symbolKey, ModelRecord memory record) private {
        LibTransient.TBytes storage construction = LibTransient.tBytes(TOKEN_UNDER_CONSTRUCTION);
        construction.set(TokenCode.encode(tokenImplementation, record));
        address token = Create2.deploy(0, symbolKey, _initCode());
        construction.clear();
        if (initialSupply != 0) {
            // The one call to another contract, and that one runs our own implementation, which calls nobody.
            // slither-disable-next-line calls-loop,reentrancy-events
            ModelToken(token).mintInitialSupply(initialSupplyRecipient, initialSupply);
        }
    }

    /// @dev Records a version of a token that has one already, and returns its number.
    function _recordLater(
        address token,
        bytes32 versionKey,
        TokenCode.Data memory first,
        ModelRecord memory record
    ) private returns (uint256 number) {
        Latest storage latest = _latest[token];
        bool isSecond = latest.number == 0;
        bool sameMetric =
            first.lowerIsBetter == record.lowerIsBetter && LibString.eq(first.metricName, record.metricName);
        int128 metric = sameMetric ? record.current : isSecond ? first.current : latest.metric;
        number = isSecond ? 2 : uint256(latest.number) + 1;

        bytes memory version = bytes(record.modelVersion);
        bool isShort = version.length <= 11;
        _latest[token] = Latest({
            metric: metric,
            number: uint32(number),
            shortVersionBytes: isShort ? uint8(version.length) : 0,
            shortVersion: isShort ? bytes11(version) : bytes11(0)
        });
        if (!isShort) _longVersions[token] = record.modelVersion;
        _versionNumbers[versionKey] = number;
    }

    function _emitVersionRecorded(address token, bytes32 versionKey, uint256 number, ModelRecord memory record)
        private
    {
        emit VersionRecorded(
            token,
            versionKey,
            number,
            record.modelName,
            record.modelVersion,
            record.modelId,
            record.runId,
            record.metricName,
            record.baseline,
            record.current,
            record.lowerIsBetter,
            record.contributor
        );
    }

    /// @dev Why the record cannot be registered, or `None`.
    function _refusal(ModelRecord memory record) private pure returns (Refusal) {
        if (!_isSymbol(record.symbol)) return Refusal.Symbol;
        if (!_isText(record.modelName, MAX_TEXT_BYTES)) return Refusal.ModelName;
        if (!_isText(record.modelVersion, MAX_TEXT_BYTES)) return Refusal.ModelVersion;
        if (!_isText(record.modelId, MAX_MODEL_ID_BYTES)) return Refusal.ModelId;
        if (bytes(record.runId).length > MAX_TEXT_BYTES) return Refusal.RunId;
        if (!_isText(record.metricName, MAX_TEXT_BYTES)) return Refusal.MetricName;
        bool reachesBaseline =
            record.lowerIsBetter ? record.current <= record.baseline : record.current >= record.baseline;
        return reachesBaseline ? Refusal.None : Refusal.BelowBaseline;
    }

    function _isSymbol(string memory symbol) private pure returns (bool) {
        return _isText(symbol, MAX_SYMBOL_BYTES) && LibString.is7BitASCII(symbol, SYMBOL_CHARACTERS);
    }

    function _isText(string memory text, uint256 maxBytes) private pure returns (bool) {
        return bytes(text).length != 0 && bytes(text).length <= maxBytes;
    }

    /// @dev Where memory is free from, as the compiler keeps it.
    function _freeMemory() private pure returns (uint256 start) {
        // Solidity has no word for it.
        // slither-disable-next-line assembly
        assembly ("memory-safe") {
            start := mload(0x40)
        }
    }

    /// @dev Gives back all memory allocated since `_freeMemory` said `start`. Nothing may refer to it any more.
    function _freeMemoryFrom(uint256 start) private pure {
        // slither-disable-next-line assembly
        assembly ("memory-safe") {
            mstore(0x40, start)
        }
    }

    // ---- Identities ----

    /// @dev Asks its creator, by a call without data, for the code to become, and becomes it. It has no arguments, so it
    /// is the same for every token.
    ///
    ///     PUSH0 PUSH0 PUSH0 PUSH0 CALLER GAS STATICCALL         ask the creator
    ///     RETURNDATASIZE PUSH0 PUSH0 RETURNDATACOPY             its answer
    ///     PUSH1 ok JUMPI PUSH0 PUSH0 REVERT
    ///     ok: JUMPDEST RETURNDATASIZE PUSH0 RETURN
    function _initCode() private pure returns (bytes memory) {
        return hex"5f5f5f5f335afa_3d5f5f3e_601157_5f5ffd_5b_3d5ff3";
    }

    /// @notice A call without data is answered with the code of the token that is being created at this moment: with
    /// nothing at any other time, and to anybody who asks.
    /// @dev Not a function of its own, for each creation would pay for finding it and for packing its answer.
    fallback(bytes calldata data) external returns (bytes memory) {
        require(data.length == 0, UnknownFunction());
        return LibTransient.tBytes(TOKEN_UNDER_CONSTRUCTION).get();
    }

    function _symbolKey(string memory symbol) private pure returns (bytes32) {
        return keccak256(bytes(LibString.lower(symbol)));
    }

    function _versionKey(bytes32 symbolKey, string memory modelName, string memory modelVersion)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(symbolKey, keccak256(bytes(modelName)), keccak256(bytes(modelVersion))));
    }

    function _tokenAddress(bytes32 symbolKey) private view returns (address) {
        return Create2.computeAddress(symbolKey, _initCodeHash);
    }

    // ---- Looking ----

    /// @inheritdoc IModelTokenRegistry
    function interfaceVersion() external pure returns (bytes32) {
        return INTERFACE_VERSION;
    }

    /// @inheritdoc IModelTokenRegistry
    function tokenAddress(string calldata symbol) external view returns (address) {
        return _tokenAddress(_symbolKey(symbol));
    }

    /// @inheritdoc IModelTokenRegistry
    function tokenOf(string calldata symbol) external view returns (address) {
        address token = _tokenAddress(_symbolKey(symbol));
        return token.code.length == 0 ? address(0) : token;
    }

    /// @inheritdoc IModelTokenRegistry
    function versionNumber(VersionId calldata version) public view returns (uint256) {
        bytes32 symbolKey = _symbolKey(version.symbol);
        bytes memory code = _tokenAddress(symbolKey).code;
        if (code.length == 0) return 0;
        if (TokenCode.isFirstVersion(code, version.modelName, version.modelVersion)) return 1;
        return _versionNumbers[_versionKey(symbolKey, version.modelName, version.modelVersion)];
    }

    /// @inheritdoc IModelTokenRegistry
    function versionNumbers(VersionId[] calldata versions) external view returns (uint256[] memory numbers) {
        numbers = new uint256[](versions.length);
        for (uint256 item = 0; item < versions.length; ++item) {
            numbers[item] = versionNumber(versions[item]);
        }
    }

    /// @inheritdoc IModelTokenRegistry
    function latestVersion(address token) external view returns (LatestVersion memory version) {
        Latest memory latest = _latest[token];
        if (latest.number != 0) {
            version.number = latest.number;
            version.metric = latest.metric;
            version.modelVersion = latest.shortVersionBytes == 0
                ? _longVersions[token]
                : LibString.slice(string(bytes.concat(latest.shortVersion)), 0, latest.shortVersionBytes);
        } else if (token.code.length != 0) {
            // What decodes to a symbol whose token it is, is a token of this registry; other code decodes to anything.
            TokenCode.Data memory first = TokenCode.decode(token.code);
            if (_tokenAddress(_symbolKey(first.symbol)) != token) return version;
            version.number = 1;
            version.metric = first.current;
            version.modelVersion = first.modelVersion;
        }
    }

    /// @inheritdoc IModelTokenRegistry
    function hasRole(Role role, address account) public view returns (bool) {
        return _roles[role][account];
    }

    // ---- Governing ----

    /// @notice Gives the account the role.
    function grantRole(Role role, address account) external onlyOwner {
        _setRole(role, account, true);
    }

    /// @notice Takes the role from the account.
    function revokeRole(Role role, address account) external onlyOwner {
        _setRole(role, account, false);
    }

    /// @notice Stops registering. Tokens are not affected.
    function pause() external onlyOwner {
        _pause();
    }

    /// @notice Resumes registering.
    function unpause() external onlyOwner {
        _unpause();
    }

    /// @notice Always reverts.
    function renounceOwnership() public view override onlyOwner {
        revert OwnerRequired();
    }

    function _checkRole(Role role) private view {
        require(hasRole(role, msg.sender), MissingRole(role, msg.sender));
    }

    function _setRole(Role role, address account, bool granted) private {
        _roles[role][account] = granted;
        if (granted) emit RoleGranted(role, account);
        else emit RoleRevoked(role, account);
    }
}
