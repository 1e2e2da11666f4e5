// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.34;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {IModelToken} from "../src/IModelToken.sol";
import {IModelTokenRegistry} from "../src/IModelTokenRegistry.sol";
import {ModelToken} from "../src/ModelToken.sol";
import {ModelTokenRegistry} from "../src/ModelTokenRegistry.sol";
import {vm} from "./Cheats.sol";
import {Records} from "./Records.sol";

/// @dev Who may do what, and that nobody else may.
contract GoverningTest {
    ModelTokenRegistry private registry;
    ModelToken private token;
    IModelTokenRegistry.ModelRecord private record = Records.usual("MSG-AI", "model", "1");

    address private constant OWNER = address(0xA1);
    address private constant CONTROLLER = address(0xA2);
    address private constant DEPLOYER = address(0xA3);
    address private constant STRANGER = address(0xA4);
    IModelTokenRegistry.Role private constant DEPLOYS = IModelTokenRegistry.Role.Deployer;
    IModelTokenRegistry.Role private constant CONTROLS = IModelTokenRegistry.Role.Controller;

    function setUp() public {
        registry = new ModelTokenRegistry(OWNER, CONTROLLER, DEPLOYER, 0, address(0));
        vm.prank(DEPLOYER);
        registry.register(Records.usual("FIRST", "model", "1"));
        token = ModelToken(registry.tokenOf("FIRST"));
    }

    function test_only_deployers_register() public {
        address[3] memory others = [OWNER, CONTROLLER, STRANGER];
        for (uint256 i = 0; i < others.length; ++i) _refuseToRegister(others[i]);
        vm.prank(DEPLOYER);
        registry.register(record);
    }

    /// @dev An empty batch, a refused one, one of what is recorded already: without the role not even that.
    function test_without_the_role_not_even_nothing_can_be_registered() public {
        IModelTokenRegistry.ModelRecord[] memory none = new IModelTokenRegistry.ModelRecord[](0);
        vm.expectRevert(_missingRole(STRANGER));
        vm.prank(STRANGER);
        registry.registerMany(none);
    }

    function test_deployers_neither_mint_nor_govern() public {
        vm.expectRevert(abi.encodeWithSelector(IModelToken.NotController.selector, DEPLOYER));
        vm.prank(DEPLOYER);
        token.mint(DEPLOYER, 1);
        vm.expectRevert(abi.encodeWithSelector(IModelToken.NotRegistry.selector, DEPLOYER));
        vm.prank(DEPLOYER);
        token.mintInitialSupply(DEPLOYER, 1);
        _refuseToGovern(DEPLOYER);
    }

    function test_controllers_and_strangers_do_not_govern() public {
        _refuseToGovern(CONTROLLER);
        _refuseToGovern(STRANGER);
    }

    function test_controllers_mint_until_revoked() public {
        vm.prank(CONTROLLER);
        token.mint(STRANGER, 100);
        vm.assertEq(token.balanceOf(STRANGER), 100, "balance");
        vm.prank(OWNER);
        registry.revokeRole(CONTROLS, CONTROLLER);
        vm.expectRevert(abi.encodeWithSelector(IModelToken.NotController.selector, CONTROLLER));
        vm.prank(CONTROLLER);
        token.mint(STRANGER, 1);
    }

    function test_a_revoked_deployer_is_out_at_once_and_another_in() public {
        vm.prank(OWNER);
        registry.revokeRole(DEPLOYS, DEPLOYER);
        _refuseToRegister(DEPLOYER);
        vm.prank(OWNER);
        registry.grantRole(DEPLOYS, STRANGER);
        vm.prank(STRANGER);
        registry.register(record);
        vm.assertTrue(registry.tokenOf(record.symbol) != address(0), "registered");
    }

    function test_a_role_is_nothing_but_itself() public view {
        vm.assertTrue(!registry.hasRole(CONTROLS, DEPLOYER) && !registry.hasRole(DEPLOYS, CONTROLLER), "apart");
        vm.assertTrue(!registry.hasRole(CONTROLS, OWNER) && !registry.hasRole(DEPLOYS, OWNER), "the owner has none");
    }

    function test_while_paused_nothing_is_registered_and_tokens_work() public {
        vm.prank(OWNER);
        registry.pause();
        vm.expectRevert(abi.encodeWithSelector(Pausable.EnforcedPause.selector));
        vm.prank(DEPLOYER);
        registry.register(record);
        IModelTokenRegistry.ModelRecord[] memory none = new IModelTokenRegistry.ModelRecord[](0);
        vm.expectRevert(abi.encodeWithSelector(Pausable.EnforcedPause.selector));
        vm.prank(DEPLOYER);
        registry.registerMany(none);
        vm.prank(CONTROLLER);
        token.mint(STRANGER, 1);
        vm.prank(OWNER);
        registry.unpause();
        vm.prank(DEPLOYER);
        registry.register(record);
    }

    function test_ownership_moves_in_two_steps() public {
        vm.prank(OWNER);
        registry.transferOwnership(STRANGER);
        vm.assertEq(registry.owner(), OWNER, "still");
        vm.expectRevert(_notOwner(CONTROLLER));
        vm.prank(CONTROLLER);
        registry.acceptOwnership();
        vm.prank(STRANGER);
        registry.acceptOwnership();
        vm.assertEq(registry.owner(), STRANGER, "moved");
        _refuseToGovern(OWNER);
    }

    function test_ownership_cannot_be_given_up() public {
        vm.expectRevert(abi.encodeWithSelector(ModelTokenRegistry.OwnerRequired.selector));
        vm.prank(OWNER);
        registry.renounceOwnership();
    }

    function test_an_initial_supply_has_a_recipient_and_a_recipient_a_supply() public {
        vm.expectRevert();
        new ModelTokenRegistry(OWNER, CONTROLLER, DEPLOYER, 1, address(0));
        vm.expectRevert();
        new ModelTokenRegistry(OWNER, CONTROLLER, DEPLOYER, 0, STRANGER);
        vm.expectRevert();
        new ModelTokenRegistry(address(0), CONTROLLER, DEPLOYER, 0, address(0));
    }

    /// @dev Another registry, though it runs the same code, creates its tokens elsewhere.
    function testFuzz_nobody_takes_a_symbol_of_this_registry(string memory symbol, address sender) public {
        if (sender == DEPLOYER) return;
        IModelTokenRegistry.ModelRecord memory wanted = Records.usual(Records.symbol(symbol), "theirs", "1");
        vm.prank(sender);
        ModelTokenRegistry theirs = new ModelTokenRegistry(OWNER, sender, sender, 0, address(0));
        vm.prank(sender);
        theirs.register(wanted);
        vm.assertTrue(theirs.tokenOf(wanted.symbol) != registry.tokenAddress(wanted.symbol), "apart");
        vm.assertEq(registry.latestVersion(theirs.tokenOf(wanted.symbol)).number, 0, "not one of this registry");
        _refuseToRegister(sender);
        wanted.modelName = "ours";
        vm.prank(DEPLOYER);
        registry.register(wanted);
        vm.assertEq(ModelToken(registry.tokenOf(wanted.symbol)).registry(), address(registry), "ours");
    }

    function _refuseToRegister(address sender) private {
        IModelTokenRegistry.ModelRecord[] memory records = new IModelTokenRegistry.ModelRecord[](1);
        records[0] = record;
        vm.expectRevert(_missingRole(sender));
        vm.prank(sender);
        registry.register(record);
        vm.expectRevert(_missingRole(sender));
        vm.prank(sender);
        registry.registerMany(records);
    }

    function _refuseToGovern(address sender) private {
        bytes[6] memory calls = [
            abi.encodeCall(registry.grantRole, (DEPLOYS, sender)),
            abi.encodeCall(registry.revokeRole, (CONTROLS, CONTROLLER)),
            abi.encodeCall(registry.pause, ()),
            abi.encodeCall(registry.unpause, ()),
            abi.encodeCall(registry.transferOwnership, (sender)),
            abi.encodeCall(registry.renounceOwnership, ())
        ];
        for (uint256 i = 0; i < calls.length; ++i) {
            vm.prank(sender);
            (bool done, bytes memory reason) = address(registry).call(calls[i]);
            vm.assertTrue(!done, "governs");
            vm.assertEq(keccak256(reason), keccak256(_notOwner(sender)), "the reason is the owner");
        }
    }

    function _missingRole(address sender) private pure returns (bytes memory) {
        return abi.encodeWithSelector(IModelTokenRegistry.MissingRole.selector, DEPLOYS, sender);
    }

    function _notOwner(address sender) private pure returns (bytes memory) {
        return abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, sender);
    }
}
