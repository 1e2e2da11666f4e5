//! What is decided per chain: when a block counts as final, and whether the configuration fits the chain, asked once at
//! startup.

use std::{fmt, str::FromStr};

use alloy::{
    primitives::{Address, Bytes},
    sol_types::SolCall,
};

use crate::{
    rpc::{At, Head, Node},
    rpc_error::RpcError,
    token::{
        INTERFACE_VERSION,
        contract::IModelTokenRegistry::{Role, hasRoleCall, interfaceVersionCall},
    },
};

/// When a block counts as final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finality {
    /// When the node's `finalized` block has reached it.
    Finalized,
    /// When it and those on top of it are this many; 1 is the newest block itself.
    Confirmations(u64),
}

impl fmt::Display for Finality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finalized => f.write_str("finalized"),
            Self::Confirmations(count) => count.fmt(f),
        }
    }
}

/// `HOKUSAI_CONFIRMATIONS` cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a number of confirmations of 1 or more nor the word finalized")]
pub struct BadFinality(String);

impl FromStr for Finality {
    type Err = BadFinality;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "finalized" => Ok(Self::Finalized),
            number => match number.parse() {
                Ok(count @ 1..) => Ok(Self::Confirmations(count)),
                _ => Err(BadFinality(text.to_owned())),
            },
        }
    }
}

/// The chain has no default; the operator has to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "chain {chain_id} has no known finality: set HOKUSAI_CONFIRMATIONS to a number of blocks, or to finalized if its nodes serve that tag"
)]
pub struct UnknownChain {
    /// The chain.
    pub chain_id: u64,
}

impl Finality {
    /// The default of a known chain.
    ///
    /// # Errors
    ///
    /// [`UnknownChain`] for any other.
    pub fn default_of(chain_id: u64) -> Result<Self, UnknownChain> {
        match chain_id {
            // Ethereum: two epochs, some 13 minutes, and reversing it costs a third of all stake. A token lasts for
            // years; nobody is hurt by a quarter of an hour.
            1
            // Base, OP Mainnet, Arbitrum One: blocks of a rollup are as final as the Ethereum block that carries their
            // data, and depth in the sequencer's own chain says nothing. Their nodes serve the tag accordingly.
            | 8453 | 10 | 42161
            // Polygon PoS: reorganisations of more than a hundred blocks have happened; milestones, which the tag
            // follows, settle a block within seconds.
            | 137 => Ok(Self::Finalized),
            // The test networks of these: worth little, and tried by people who wait in front of a terminal.
            11_155_111 | 84_532 | 11_155_420 | 421_614 | 80_002 => Ok(Self::Confirmations(12)),
            // anvil, Hardhat, Ganache, geth --dev, and our embedded chain: one node, which reorganises only when told to.
            31_337 | 1337 => Ok(Self::Confirmations(1)),
            _ => Err(UnknownChain { chain_id }),
        }
    }

    /// The newest block that is final, as a question to the node; `None` while the chain is shorter than that.
    pub(crate) fn final_block(self, head: &Head) -> Option<At> {
        match self {
            Self::Finalized => Some(At::Finalized),
            // The same block as `latest`, but sure to be the one that was looked at.
            Self::Confirmations(count) => head.number.checked_sub(count - 1).map(At::Number),
        }
    }
}

/// What is known of the chain at one moment: its newest block and how far it is final.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChainView {
    pub(crate) head: Head,
    /// The newest final block.
    pub(crate) final_number: Option<u64>,
}

impl ChainView {
    pub(crate) async fn look(node: &Node, finality: Finality) -> Result<Self, RpcError> {
        let head = node.head().await?;
        let final_number = match finality.final_block(&head) {
            Some(At::Number(number)) => Some(number),
            Some(at) => node.block(at).await?.map(|block| block.number),
            None => None,
        };
        Ok(Self { head, final_number })
    }

    pub(crate) fn is_deep(&self, block_number: u64) -> bool {
        self.final_number.is_some_and(|last| block_number <= last)
    }
}

/// The configuration does not fit the chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unfitting {
    /// The node cannot be asked; nothing is known to be wrong.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// It is another chain.
    #[error("WEB3_PROVIDER_URL serves chain {found}, but HOKUSAI_CHAIN_ID pins chain {pinned}")]
    Chain {
        /// What was asked for.
        pinned: u64,
        /// What is there.
        found: u64,
    },
    /// Its finality is not known.
    #[error(transparent)]
    Finality(#[from] UnknownChain),
    /// It has no base fee.
    #[error("chain {chain_id} has no base fee (EIP-1559), which the sender needs")]
    NoBaseFee {
        /// The chain.
        chain_id: u64,
    },
    /// There is no contract at the registry's address.
    #[error(
        "there is no contract at {registry} on chain {chain_id}: check HOKUSAI_REGISTRY_ADDRESS and the network, or run `hokusai contracts deploy`"
    )]
    NoRegistry {
        /// The configured address.
        registry: Address,
        /// The chain.
        chain_id: u64,
    },
    /// The contract there is something else.
    #[error("the contract at {registry} is no model token registry of the version this program knows")]
    NotARegistry {
        /// The configured address.
        registry: Address,
    },
}

/// What [`check_chain`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainFacts {
    /// The chain.
    pub chain_id: u64,
    /// Its finality: as configured, or the chain's default.
    pub finality: Finality,
    /// Whether the deployer holds the deployer role. Without it nothing new can be sent, but what was sent can be settled:
    /// warn, and start. [`check_node`] does not ask and says yes.
    pub may_deploy: bool,
}

/// The startup check: the chain is the one meant, its finality is known, and the registry is there and of our interface.
/// Whether the deployer holds its role is in the answer.
///
/// # Errors
///
/// [`Unfitting`] says which of these fails and what to do.
pub async fn check_chain(
    node: &Node,
    registry: Address,
    deployer: Address,
    pinned_chain_id: Option<u64>,
    finality: Option<Finality>,
) -> Result<ChainFacts, Unfitting> {
    let facts = check_node(node, pinned_chain_id, finality).await?;
    if node.code(registry).await?.is_empty() {
        return Err(Unfitting::NoRegistry { registry, chain_id: facts.chain_id });
    }
    let version = view::<interfaceVersionCall>(node, deployer, registry, &interfaceVersionCall {}).await?;
    if version != Some(*INTERFACE_VERSION) {
        return Err(Unfitting::NotARegistry { registry });
    }
    let question = hasRoleCall { role: Role::Deployer, account: deployer };
    match view::<hasRoleCall>(node, deployer, registry, &question).await? {
        Some(may_deploy) => Ok(ChainFacts { may_deploy, ..facts }),
        None => Err(Unfitting::NotARegistry { registry }),
    }
}

/// The part of [`check_chain`] that needs no registry.
///
/// # Errors
///
/// [`Unfitting`] says which of these fails and what to do.
pub async fn check_node(node: &Node, pinned_chain_id: Option<u64>, finality: Option<Finality>) -> Result<ChainFacts, Unfitting> {
    let chain_id = node.chain_id().await?;
    if let Some(pinned) = pinned_chain_id.filter(|&pinned| pinned != chain_id) {
        return Err(Unfitting::Chain { pinned, found: chain_id });
    }
    let finality = match finality {
        Some(finality) => finality,
        None => Finality::default_of(chain_id)?,
    };
    if node.head().await?.base_fee_wei.is_none() {
        return Err(Unfitting::NoBaseFee { chain_id });
    }
    Ok(ChainFacts { chain_id, finality, may_deploy: true })
}

/// `None` if the contract does not understand the question.
async fn view<C: SolCall>(node: &Node, from: Address, registry: Address, question: &C) -> Result<Option<C::Return>, RpcError> {
    match node.call(from, registry, &Bytes::from(question.abi_encode()), At::Latest).await {
        Ok(answer) => Ok(C::abi_decode_returns(&answer).ok()),
        Err(RpcError::Reverted { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;

    #[test]
    fn finality_is_a_word_or_a_positive_number() {
        assert_eq!("finalized".parse(), Ok(Finality::Finalized));
        assert_eq!(" 12".parse(), Ok(Finality::Confirmations(12)));
        for text in ["0", "-1", "", "final", "1.5"] {
            assert_eq!(text.parse::<Finality>(), Err(BadFinality(text.to_owned())));
        }
    }

    #[test]
    fn an_unknown_chain_names_the_variable() {
        let error = Finality::default_of(99).expect_err("no default");
        assert!(error.to_string().contains("HOKUSAI_CONFIRMATIONS"), "{error}");
        for known in [1, 11_155_111, 8453, 42161, 10, 137, 31_337, 1337] {
            assert!(Finality::default_of(known).is_ok(), "{known}");
        }
    }

    #[test]
    fn one_confirmation_is_the_newest_block() {
        let head = Head { number: 7, hash: B256::ZERO, base_fee_wei: None, gas_limit: 0 };
        assert_eq!(Finality::Confirmations(1).final_block(&head), Some(At::Number(7)));
        assert_eq!(Finality::Confirmations(8).final_block(&head), Some(At::Number(0)));
        assert_eq!(Finality::Confirmations(9).final_block(&head), None);
    }
}
