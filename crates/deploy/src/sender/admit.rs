//! Planned deployments: those that are on the chain already are final, the rest go together into one transaction.
//!
//! Before anything is signed: the chain is asked whether it is already true, the call is estimated, the fee and the
//! balance are checked, and holes before the next nonce are filled. A call that would revert as a whole is split.

use std::time::Duration;

use alloy::{
    primitives::{Bytes, TxKind, U256},
    sol_types::SolCall as _,
};

use super::{
    Sender,
    recheck::Recheck,
    send::Call,
    verdict::{Scene, lone_failure},
};
use crate::{
    chain::ChainView,
    deployment::{Admission, Outage, Sight, SlotState, admit},
    error::Error,
    ledger::{Deployment, DeploymentRow, fates::Fate, now_ms, slots::Purpose},
    rpc::At,
    rpc_error::RpcError,
    token::{MAX_ITEMS, ModelTokenRegistry::initialSupplyCall, Revert, TokenRequest, calldata, fit, read_revert, supply_gas},
};

/// How many waiting deployments are looked at in one turn.
pub(super) const LOOK_AHEAD: usize = MAX_ITEMS;
/// The most gas one transaction may have (EIP-7825).
const TRANSACTION_GAS_CAP: u64 = 16_777_216;
/// For how many windows a crowd that keeps growing is waited for.
const WINDOWS: i64 = 10;
/// How many holes before the next nonce are filled in one turn.
const HOLES_PER_TURN: usize = 16;

/// What admission did.
pub(super) struct Admitted {
    /// Whether the ledger changed.
    pub(super) moved: bool,
    /// How many deployments still wait.
    pub(super) waiting: usize,
    /// How long to wait for company, if that is all there is to wait for.
    pub(super) rest: Option<Duration>,
}

/// The batch as it will be signed.
struct Ready {
    riders: Vec<Deployment>,
    call: Call,
}

/// What holes in the nonces there were.
pub(super) struct Holes {
    /// Whether any was filled.
    pub(super) filled: bool,
    /// Whether the chain counts nonces as unused whose slots have ended.
    pub(super) given_back: bool,
}

/// What the estimate says.
enum Estimate {
    Ready(Ready),
    /// These fates change what to estimate; start again in the next turn.
    Changed(Vec<(DeploymentRow, Fate)>),
}

impl Sender {
    pub(super) async fn admit(&mut self, waiting: Vec<DeploymentRow>, view: &ChainView, now_ms: i64) -> Result<Admitted, Error> {
        let count = waiting.len();
        let unmoved = |rest| Admitted { moved: false, waiting: count, rest };
        let Some(oldest) = waiting.iter().map(|row| row.deployment.created_at_ms).min() else {
            return Ok(unmoved(None));
        };
        if let Some(left) = self.gather(count, oldest, now_ms) {
            return Ok(unmoved(Some(left)));
        }
        let in_flight = self.own().filter(|slot| slot.state != SlotState::Included).count();
        if in_flight >= self.config.max_in_flight {
            return Ok(unmoved(None));
        }
        let (found, absent) = self.sift(waiting, view).await?;
        let mut moved = !found.is_empty();
        let settled = found.len();
        self.ledger.settle_waiting(self.fence()?, found, now_ms).await?;
        if !absent.is_empty() {
            moved |= self.take(absent, view).await?;
        }
        Ok(Admitted { moved, waiting: count - settled, rest: None })
    }

    /// How long to wait for company: a window from when the last one came, while they keep coming, and [`WINDOWS`] at most. A
    /// transaction that leaves with the first of a crowd takes a place in flight from those behind.
    fn gather(&mut self, count: usize, oldest_ms: i64, now_ms: i64) -> Option<Duration> {
        let window_ms = i64::try_from(self.config.batch_window.as_millis()).unwrap_or(i64::MAX);
        let tenure = self.tenure.as_mut()?;
        if count != tenure.gathered.0 {
            tenure.gathered = (count, now_ms);
        }
        let until_ms = tenure.gathered.1.saturating_add(window_ms).min(oldest_ms.saturating_add(window_ms.saturating_mul(WINDOWS)));
        let left_ms = until_ms.saturating_sub(now_ms);
        if count >= MAX_ITEMS || left_ms <= 0 {
            tenure.gathered = (0, now_ms);
            return None;
        }
        Some(Duration::from_millis(left_ms.unsigned_abs()).min(self.config.batch_window))
    }

    /// Tells those that are on the chain at final depth from those that are not there at all.
    async fn sift(&self, waiting: Vec<DeploymentRow>, view: &ChainView) -> Result<(Vec<(DeploymentRow, Fate)>, Vec<DeploymentRow>), Error> {
        let sights = self.sights(&waiting, view).await?;
        let (mut found, mut absent) = (Vec::new(), Vec::new());
        for (row, sight) in waiting.into_iter().zip(sights) {
            match admit(sight) {
                Admission::Sign => absent.push(row),
                Admission::Wait => {}
                Admission::Finish => {
                    let fate = Fate::Final(Box::new(self.found(&row.deployment, view).await?));
                    found.push((row, fate));
                }
            }
        }
        Ok((found, absent))
    }

    /// How the chain sees each deployment.
    pub(super) async fn sights(&self, rows: &[DeploymentRow], view: &ChainView) -> Result<Vec<Sight>, Error> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let recorded = self.version_numbers(rows, At::Number(view.head.number)).await?;
        let deep = match view.final_number {
            _ if !recorded.contains(&true) => vec![false; rows.len()],
            Some(number) if number == view.head.number => recorded.clone(),
            Some(number) => self.recorded_deep(rows, number).await?,
            None => vec![false; rows.len()],
        };
        let sight = |(recorded, deep): (bool, bool)| match (recorded, deep) {
            (true, true) => Sight::Deep,
            (false, false) => Sight::Absent,
            _ => Sight::Shallow,
        };
        Ok(recorded.into_iter().zip(deep).map(sight).collect())
    }

    /// A deployment that is on the chain by a transaction the ledger does not hold. It cost us nothing; the block is the one
    /// in which it was seen.
    async fn found(&self, deployment: &Deployment, view: &ChainView) -> Result<Deployment, Error> {
        let token_address = self.token_of(deployment, At::Number(view.head.number)).await?;
        Ok(Deployment {
            token_address,
            transaction_hash: None,
            block_number: view.final_number,
            gas_used: Some(0),
            fee_wei: Some(U256::ZERO),
            outcome: Some("already_recorded".to_owned()),
            reason: None,
            ..deployment.clone()
        })
    }

    /// Takes what fits into one transaction, and sends it.
    async fn take(&mut self, absent: Vec<DeploymentRow>, view: &ChainView) -> Result<bool, Error> {
        let offer = self.affordable_offer(view).await?;
        let most = TRANSACTION_GAS_CAP.min(view.head.gas_limit);
        let budget = most.min(offer.gas_room());
        let supply_gas = self.supply_gas().await?;
        let ready = match self.estimate(company(absent, budget, supply_gas), budget).await? {
            Estimate::Ready(ready) => ready,
            Estimate::Changed(fates) => {
                self.ledger.settle_waiting(self.fence()?, fates, now_ms()).await?;
                return Ok(true);
            }
        };
        if !self.has_money(ready.call.gas_limit, offer).await? {
            return Ok(false);
        }
        let Some(nonce) = self.next_nonce(view).await? else {
            return Ok(false);
        };
        let attempt = self.sign_attempt(nonce, 1, ready.call, offer).await?;
        let slot = self.ledger.open_slot(self.fence()?, nonce, &attempt, &ready.riders, attempt.signed_at_ms).await?;
        tracing::debug!(nonce, items = ready.riders.len(), hash = %attempt.hash, "signed");
        self.remember(slot.clone());
        self.send(slot, view).await?;
        Ok(true)
    }

    /// What the registry's first supply adds to each token. A registry of another make has none that we know of; its estimates tell.
    async fn supply_gas(&mut self) -> Result<u64, Error> {
        if let Some(gas) = self.supply_gas {
            return Ok(gas);
        }
        let question = Bytes::from(initialSupplyCall {}.abi_encode());
        let gas = match self.node.call(self.account(), self.ledger.registry, &question, At::Latest).await {
            Ok(answer) => initialSupplyCall::abi_decode_returns(&answer).map_or(0, supply_gas),
            Err(RpcError::Reverted { .. }) => 0,
            Err(error) => return Err(error.into()),
        };
        self.supply_gas = Some(gas);
        Ok(gas)
    }

    /// Halves the batch until its estimate fits.
    async fn estimate(&self, mut batch: Vec<DeploymentRow>, budget: u64) -> Result<Estimate, Error> {
        loop {
            let requests: Vec<TokenRequest> = batch.iter().map(|row| row.deployment.request.clone()).collect();
            let input = match calldata(&requests) {
                Ok(input) => input,
                Err(unfit) => return Ok(Estimate::Changed(self.refuse_unfit(batch, &unfit.to_string()))),
            };
            let problem = match self.node.estimate_gas(self.account(), Some(self.ledger.registry), &input).await {
                Ok(gas) if padded(gas, &batch) <= budget => {
                    let to = TxKind::Call(self.ledger.registry);
                    let call = Call { purpose: Purpose::Register, to, input, gas_limit: padded(gas, &batch) };
                    let riders = batch.into_iter().map(|row| row.deployment).collect();
                    return Ok(Estimate::Ready(Ready { riders, call }));
                }
                Ok(gas) => format!("it needs {} gas, more than the {budget} that a transaction may have at present", padded(gas, &batch)),
                Err(RpcError::Reverted { message, data }) => {
                    return self.after_revert(batch, message, data.as_ref()).map(Estimate::Changed);
                }
                // A node's own limit on gas, in whatever words: less may fit.
                Err(RpcError::Refused { code, message, .. }) => format!("the node does not estimate it (code {code}): {message}"),
                Err(error) => return Err(error.into()),
            };
            match <[DeploymentRow; 1]>::try_from(batch) {
                // It steps behind the others until it is tried again.
                Ok([row]) => return Ok(Estimate::Changed(vec![self.failed_alone(row, None, problem)])),
                Err(several) => batch = several,
            }
            batch.truncate(batch.len() / 2);
        }
    }

    /// A call that would revert. Pause and missing role are no request's fault; anything else is found by sending each alone.
    fn after_revert(&self, batch: Vec<DeploymentRow>, message: String, data: Option<&Bytes>) -> Result<Vec<(DeploymentRow, Fate)>, Error> {
        let revert = data.map(|data| read_revert(data));
        match &revert {
            Some(Revert::Paused) => {
                let detail = format!("the owner of the registry {} has paused it", self.ledger.registry);
                return Err(Error::Outage { outage: Outage::RegistryPaused, detail });
            }
            Some(revert @ Revert::NotDeployer { .. }) => {
                return Err(Error::Outage { outage: Outage::NotPermitted, detail: revert.to_string() });
            }
            _ => {}
        }
        Ok(match <[DeploymentRow; 1]>::try_from(batch) {
            Ok([row]) => {
                let words = match &revert {
                    Some(Revert::Refused { reason }) => reason.clone(),
                    _ => format!("the call would revert: {message}"),
                };
                vec![self.failed_alone(row, revert.as_ref(), words)]
            }
            Err(batch) => batch.into_iter().map(|row| (row, Fate::Planned { alone: true, setback: None })).collect(),
        })
    }

    fn failed_alone(&self, row: DeploymentRow, revert: Option<&Revert>, words: String) -> (DeploymentRow, Fate) {
        tracing::warn!(deployment = row.deployment.id, problem = words, "a deployment cannot be taken into a transaction");
        let fate = lone_failure(&row, revert, words, Scene::Node, &self.config, now_ms());
        (row, fate)
    }

    /// Planning refuses what does not fit, so this concerns rows that an older version planned.
    fn refuse_unfit(&self, batch: Vec<DeploymentRow>, problem: &str) -> Vec<(DeploymentRow, Fate)> {
        let unfit = batch.into_iter().filter(|row| row.deployment.request.check().is_err());
        unfit.map(|row| (row, Fate::Refused { reason: problem.to_owned(), permanent: true })).collect()
    }

    /// The nonce to sign next: above all that the chain and the ledger know. `None` while the chain gives nonces back: what
    /// was signed above them would wait for ever.
    async fn next_nonce(&mut self, view: &ChainView) -> Result<Option<u64>, Error> {
        if self.fill_holes(view).await?.given_back {
            return Ok(None);
        }
        let account = self.account();
        let pending = self.node.next_nonce(account, At::Pending).await?;
        let held = self.ledger.nonces_from(account, pending).await?;
        Ok(Some(held.last().map_or(pending, |last| pending.max(last + 1))))
    }

    /// Uses up nonces that nobody holds below one that we signed: a hole would keep everything above it waiting for ever. One
    /// comes about when a transaction that is not ours is forgotten by the nodes.
    pub(super) async fn fill_holes(&mut self, view: &ChainView) -> Result<Holes, Error> {
        let account = self.account();
        let unused = self.node.next_nonce(account, At::Number(view.head.number)).await?;
        let held = self.ledger.nonces_from(account, unused).await?;
        let Some(&last) = held.last() else {
            return Ok(Holes { filled: false, given_back: false });
        };
        let given_back = held.iter().any(|nonce| self.own().all(|slot| slot.nonce != *nonce));
        if let (true, Some(tenure)) = (given_back, &mut self.tenure) {
            // A deep reorganisation, a chain put back to an earlier day, or a node that lags. Looking again tells which.
            tenure.recheck = Recheck::given_back(unused);
        }
        let pending = self.node.next_nonce(account, At::Pending).await?.max(unused);
        let holes: Vec<u64> = (pending..last).filter(|nonce| !held.contains(nonce)).take(HOLES_PER_TURN).collect();
        for nonce in &holes {
            self.fill_hole(*nonce, view).await?;
        }
        Ok(Holes { filled: !holes.is_empty(), given_back })
    }

    async fn fill_hole(&mut self, nonce: u64, view: &ChainView) -> Result<(), Error> {
        tracing::warn!(nonce, "filling a hole in the nonces");
        let offer = self.affordable_offer(view).await?;
        let nothing = self.call_nothing().await?;
        let attempt = self.sign_attempt(nonce, 1, nothing, offer).await?;
        let slot = self.ledger.open_slot(self.fence()?, nonce, &attempt, &[], attempt.signed_at_ms).await?;
        self.remember(slot.clone());
        self.send(slot, view).await?;
        Ok(())
    }
}

/// The estimate with room for what changes until inclusion: another first version of the symbol, a colder state. What has
/// failed before may have lacked gas.
fn padded(gas: u64, batch: &[DeploymentRow]) -> u64 {
    let failures = batch.iter().map(|row| row.tries).max().unwrap_or_default().min(8);
    gas.saturating_add((gas / 4).saturating_mul(u64::from(1 + failures))).saturating_add(20_000)
}

/// Who goes together: the first alone if it must be, otherwise as many as fit of those that need not.
fn company(waiting: Vec<DeploymentRow>, budget: u64, supply_gas: u64) -> Vec<DeploymentRow> {
    if waiting.first().is_some_and(|first| first.alone) {
        return waiting.into_iter().take(1).collect();
    }
    let mut batch: Vec<DeploymentRow> = waiting.into_iter().filter(|row| !row.alone).collect();
    let requests: Vec<TokenRequest> = batch.iter().map(|row| row.deployment.request.clone()).collect();
    batch.truncate(fit(&requests, budget / 5 * 4, supply_gas));
    batch
}
