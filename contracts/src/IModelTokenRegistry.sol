// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.34;

/// @title The registry of model tokens, as its callers see it
/// @notice One ERC-20 token per symbol, one record per model version. Anybody may bring a registry of their own behind
/// this interface; `interfaceVersion` tells a client that it is talking to one.
///
/// Identities. A symbol is one to 64 of `[A-Za-z0-9-]` and its identity ignores case: `symbolKey` is the Keccak-256 of
/// the lower-cased symbol. A version is (symbol, model name, model version): `versionKey` is the Keccak-256 of the
/// ABI encoding of (symbolKey, Keccak-256 of the model name, Keccak-256 of the model version).
///
/// Metrics are signed fixed-point numbers with 18 decimals: 0.85 is 850000000000000000.
interface IModelTokenRegistry {
    /// @notice One version of a model, as its message describes it.
    struct ModelRecord {
        string symbol;
        /// @dev 1 to 256 bytes.
        string modelName;
        /// @dev 1 to 256 bytes.
        string modelVersion;
        /// @dev 1 to 1024 bytes, opaque.
        string modelId;
        /// @dev The MLflow run, at most 256 bytes; empty where there is none.
        string runId;
        /// @dev 1 to 256 bytes.
        string metricName;
        int128 baseline;
        int128 current;
        bool lowerIsBetter;
        /// @dev Zero where the message names nobody.
        address contributor;
    }

    /// @notice What identifies a version.
    struct VersionId {
        string symbol;
        string modelName;
        string modelVersion;
    }

    /// @notice The latest recorded version of a token.
    struct LatestVersion {
        /// @dev How many versions are recorded; zero if there is no token.
        uint256 number;
        string modelVersion;
        /// @dev The latest value of the token's own metric. A version judged by another metric leaves it as it was.
        int128 metric;
    }

    /// @notice What became of one record.
    enum Outcome {
        TokenCreated,
        VersionRecorded,
        AlreadyRecorded,
        Refused
    }

    /// @notice Why a record was refused: the field at fault, or a model that does not reach its baseline.
    enum Refusal {
        None,
        Symbol,
        ModelName,
        ModelVersion,
        ModelId,
        RunId,
        MetricName,
        BelowBaseline
    }

    /// @notice A deployer may register; a controller may mint. Neither may do anything else.
    enum Role {
        Deployer,
        Controller
    }

    /// @notice A symbol got its token, and the version was recorded as its first. What else the record said of the
    /// version, the token carries.
    event TokenCreated(
        address indexed token, bytes32 indexed versionKey, string symbol, string modelId, string runId
    );

    /// @notice A version was recorded, as the `number`th of a token that had one.
    event VersionRecorded(
        address indexed token,
        bytes32 indexed versionKey,
        uint256 number,
        string modelName,
        string modelVersion,
        string modelId,
        string runId,
        string metricName,
        int128 baseline,
        int128 current,
        bool lowerIsBetter,
        address contributor
    );

    /// @notice The version had been recorded before; nothing changed.
    event AlreadyRecorded(address indexed token, bytes32 indexed versionKey);

    /// @notice The record at position `item` of a batch was refused and skipped.
    event RecordRefused(uint256 indexed item, Refusal reason);

    event RoleGranted(Role indexed role, address indexed account);
    event RoleRevoked(Role indexed role, address indexed account);

    /// @notice The caller lacks the role that the call needs.
    error MissingRole(Role role, address account);

    /// @notice The only record of the call was refused.
    error InvalidRecord(Refusal reason);

    /// @notice Creates the symbol's token if there is none and records the version if it is new. Having done either
    /// before is no error. Emits the event that is called as the outcome.
    /// @dev Reverts with `InvalidRecord` where `registerMany` would have skipped the record.
    function register(ModelRecord calldata record) external returns (Outcome outcome);

    /// @notice Does what `register` does for each record, in order. A refused record is emitted and skipped.
    /// Each record emits exactly one event, in order: the one that is called as its outcome, or `RecordRefused`.
    function registerMany(ModelRecord[] calldata records) external returns (Outcome[] memory outcomes);

    /// @notice Keccak-256 of "hokusai.IModelTokenRegistry.1".
    function interfaceVersion() external view returns (bytes32);

    /// @notice Where the symbol's token is, or will be.
    function tokenAddress(string calldata symbol) external view returns (address);

    /// @notice Where the symbol's token is; zero if there is none.
    function tokenOf(string calldata symbol) external view returns (address);

    /// @notice Under which number the version is recorded; zero if it is not.
    function versionNumber(VersionId calldata version) external view returns (uint256);

    /// @notice `versionNumber` of many.
    function versionNumbers(VersionId[] calldata versions) external view returns (uint256[] memory);

    /// @notice The latest recorded version of a token of this registry; number zero if the address is not one.
    function latestVersion(address token) external view returns (LatestVersion memory);

    function hasRole(Role role, address account) external view returns (bool);
}
