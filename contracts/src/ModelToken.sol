// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.34;

import {ERC20} from "solady/src/tokens/ERC20.sol";
import {IModelToken} from "./IModelToken.sol";
import {IModelTokenRegistry} from "./IModelTokenRegistry.sol";
import {TokenCode} from "./TokenCode.sol";

/// @title The token of a model
/// @notice ERC-20 with EIP-2612 permit, burn, and minting by the registry's controllers. This is the implementation
/// behind every token; what a token is called and what it stands for is read from the token's own code (`TokenCode`).
/// @dev Has no owner, no upgrade and no storage but ERC-20's. Called directly, not through a token, its views of data
/// mean nothing, for its code carries none.
contract ModelToken is ERC20, IModelToken {
    address public immutable registry;

    constructor(address registry_) {
        // The registry constructs this itself and passes its own address.
        // slither-disable-next-line missing-zero-check
        registry = registry_;
    }

    /// @inheritdoc IModelToken
    function mint(address to, uint256 amount) external {
        bool isController =
            IModelTokenRegistry(registry).hasRole(IModelTokenRegistry.Role.Controller, msg.sender);
        require(isController, NotController(msg.sender));
        _mint(to, amount);
    }

    /// @notice Creates the supply that the registry was built to start each token with. Called once, on creation.
    function mintInitialSupply(address to, uint256 amount) external {
        require(msg.sender == registry, NotRegistry(msg.sender));
        _mint(to, amount);
    }

    /// @inheritdoc IModelToken
    function burn(uint256 amount) external {
        _burn(msg.sender, amount);
    }

    /// @inheritdoc IModelToken
    function burnFrom(address owner, uint256 amount) external {
        _spendAllowance(owner, msg.sender, amount);
        _burn(owner, amount);
    }

    function name() public view override returns (string memory) {
        return string.concat("Hokusai ", symbol());
    }

    function symbol() public view override returns (string memory) {
        return TokenCode.decode(address(this).code).symbol;
    }

    function modelName() external view returns (string memory) {
        return TokenCode.decode(address(this).code).modelName;
    }

    function modelVersion() external view returns (string memory) {
        return TokenCode.decode(address(this).code).modelVersion;
    }

    function modelId() external view returns (string memory) {
        return TokenCode.decode(address(this).code).modelId;
    }

    function contributor() external view returns (address) {
        return TokenCode.decode(address(this).code).contributor;
    }

    function metricName() external view returns (string memory) {
        return TokenCode.decode(address(this).code).metricName;
    }

    function lowerIsBetter() external view returns (bool) {
        return TokenCode.decode(address(this).code).lowerIsBetter;
    }

    function baselineMetric() external view returns (int128) {
        return TokenCode.decode(address(this).code).baseline;
    }

    function currentMetric() external view returns (int128) {
        return IModelTokenRegistry(registry).latestVersion(address(this)).metric;
    }

    function versionCount() external view returns (uint256) {
        return IModelTokenRegistry(registry).latestVersion(address(this)).number;
    }

    function latestVersion() external view returns (string memory) {
        return IModelTokenRegistry(registry).latestVersion(address(this)).modelVersion;
    }

    /// @dev Solady would give Permit2 an infinite allowance over every holder's tokens. Holders give allowances here.
    function _givePermit2InfiniteAllowance() internal pure override returns (bool) {
        return false;
    }
}
