//! The contracts as Rust types, read from the same Solidity interfaces that the contracts implement; their identities,
//! computed as the contracts compute them; and what the registry is deployed from.

use std::sync::LazyLock;

use alloy::{
    primitives::{Address, B256, Bytes, U256, hex, keccak256},
    sol,
    sol_types::{SolConstructor, SolValue},
};
use serde::Deserialize;

#[expect(missing_docs, reason = "the documentation is that of the Solidity interface")]
#[expect(clippy::too_many_arguments, reason = "an event has as many fields as it has")]
mod bindings {
    use super::sol;

    sol!(
        #![sol(all_derives)]
        "../../contracts/src/IModelTokenRegistry.sol"
    );
    sol!("../../contracts/src/IModelToken.sol");
    sol! {
        /// What our registry offers beyond the interface: its construction, and governing it.
        #[sol(all_derives)]
        interface ModelTokenRegistry {
            constructor(
                address owner,
                address controller,
                address deployer,
                uint256 initialSupply,
                address initialSupplyRecipient
            );
            function tokenImplementation() external view returns (address);
            function initialSupply() external view returns (uint256);
            function initialSupplyRecipient() external view returns (address);
            function owner() external view returns (address);
            function pendingOwner() external view returns (address);
            function transferOwnership(address newOwner) external;
            function acceptOwnership() external;
            function grantRole(uint8 role, address account) external;
            function revokeRole(uint8 role, address account) external;
            function pause() external;
            function unpause() external;
            function paused() external view returns (bool);
            error EnforcedPause();
            error FailedDeployment();
            error OwnableUnauthorizedAccount(address account);
            error OwnableInvalidOwner(address owner);
            error OwnerRequired();
            error InitialSupplyWithoutRecipient(uint256 supply, address recipient);
        }
    }
}

pub use bindings::{IModelToken, IModelTokenRegistry, ModelTokenRegistry};

/// What a registry answers to `interfaceVersion`. Anything else at the address is not a registry we can use.
pub static INTERFACE_VERSION: LazyLock<B256> = LazyLock::new(|| keccak256("hokusai.IModelTokenRegistry.1"));

/// The init code of every token of our registry: it asks its creator for the code to become. The contract says how.
static TOKEN_INIT_CODE_HASH: LazyLock<B256> = LazyLock::new(|| keccak256(hex!("5f5f5f5f335afa3d5f5f3e6011575f5ffd5b3d5ff3")));

/// Identifies a symbol: Keccak-256 of its lower-cased form.
pub fn symbol_key(symbol: &str) -> B256 {
    keccak256(symbol.to_ascii_lowercase())
}

/// Identifies a version of a model under a symbol.
pub fn version_key(symbol: &str, model_name: &str, model_version: &str) -> B256 {
    keccak256((symbol_key(symbol), keccak256(model_name), keccak256(model_version)).abi_encode())
}

/// Where our registry at `registry` creates, or has created, the symbol's token. A registry that somebody brought
/// must be asked (`tokenAddress`).
pub fn token_address(registry: Address, symbol: &str) -> Address {
    registry.create2(symbol_key(symbol), *TOKEN_INIT_CODE_HASH)
}

/// What a registry is constructed with. All of it but the roles and the owner is fixed for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryArguments {
    /// Grants and revokes roles, and pauses.
    pub owner: Address,
    /// May mint on every token.
    pub controller: Address,
    /// May register.
    pub deployer: Address,
    /// What every token starts with and who gets it.
    pub initial_supply: Option<(U256, Address)>,
}

/// The data of the transaction that deploys a registry.
pub fn registry_init_code(arguments: &RegistryArguments) -> Bytes {
    let (supply, recipient) = arguments.initial_supply.unwrap_or_default();
    let constructor = ModelTokenRegistry::constructorCall {
        owner: arguments.owner,
        controller: arguments.controller,
        deployer: arguments.deployer,
        initialSupply: supply,
        initialSupplyRecipient: recipient,
    };
    [&REGISTRY.bytecode[..], &constructor.abi_encode()].concat().into()
}

/// The compiler's whole input, as block explorers take it to verify a registry and its tokens' implementation.
pub fn standard_json_input() -> &'static str {
    include_str!("../../../../contracts/artifacts/standard-input.json")
}

#[derive(Deserialize)]
struct Artifact {
    bytecode: Bytes,
}

/// The committed artifact; `contracts/README.md` tells how it was built.
static REGISTRY: LazyLock<Artifact> = LazyLock::new(|| {
    let json = include_str!("../../../../contracts/artifacts/ModelTokenRegistry.json");
    serde_json::from_str(json).expect("the committed artifact is JSON with a bytecode")
});
