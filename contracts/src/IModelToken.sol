// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.34;

/// @title What a model token adds to ERC-20 and EIP-2612
/// @notice Everything said of "the first version" is fixed for ever; the rest follows the registry.
interface IModelToken {
    /// @notice The caller is not a controller of the registry.
    error NotController(address caller);

    /// @notice The caller is not the registry.
    error NotRegistry(address caller);

    /// @notice Creates `amount` for `to`. Only for the registry's controllers.
    function mint(address to, uint256 amount) external;

    /// @notice Destroys `amount` of the caller's.
    function burn(uint256 amount) external;

    /// @notice Destroys `amount` of the owner's, out of the caller's allowance.
    function burnFrom(address owner, uint256 amount) external;

    function registry() external view returns (address);

    /// @notice The model of the first version.
    function modelName() external view returns (string memory);

    /// @notice The first version.
    function modelVersion() external view returns (string memory);

    /// @notice The model id of the first version.
    function modelId() external view returns (string memory);

    /// @notice Who contributed the first version; zero if its message named nobody.
    function contributor() external view returns (address);

    /// @notice The metric by which the first version was judged.
    function metricName() external view returns (string memory);

    function lowerIsBetter() external view returns (bool);

    /// @notice The baseline that the first version met, with 18 decimals.
    function baselineMetric() external view returns (int128);

    /// @notice The latest recorded value of this token's metric, with 18 decimals.
    function currentMetric() external view returns (int128);

    /// @notice How many versions are recorded.
    function versionCount() external view returns (uint256);

    /// @notice The latest recorded version.
    function latestVersion() external view returns (string memory);
}
