// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.34;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

// What the gas table compares with: a model's token deployed the simple way, one contract for each. None of them
// carries a model, records a version, or keeps anybody from deploying the symbol again.

/// @dev The reference: ERC20 and Ownable, for which Ownable has a use.
contract DirectToken is ERC20, Ownable {
    constructor(string memory name, string memory symbol, address owner) ERC20(name, symbol) Ownable(owner) {}

    function mint(address to, uint256 amount) external onlyOwner {
        _mint(to, amount);
    }
}

/// @dev The least there is: of this token there will never be any.
contract DirectTokenWithoutMint is ERC20, Ownable {
    constructor(string memory name, string memory symbol, address owner) ERC20(name, symbol) Ownable(owner) {}
}

/// @dev All there will ever be of this token, its owner gets on construction.
contract DirectTokenWithSupply is ERC20, Ownable {
    constructor(string memory name, string memory symbol, address owner) ERC20(name, symbol) Ownable(owner) {
        _mint(owner, 1_000_000e18);
    }
}
