//! What a registration waits for, since when, and what to do about it: decided from what was found, asking nobody.

use hokusai_deploy::{Deployment, DeploymentState};
use hokusai_event::Timestamp;
use hokusai_queue::State;
use hokusai_registry::{Registration, Status};
use serde::Serialize;

use super::Place;

/// Where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Standing {
    /// Whom or what it waits for; none at the end of its way.
    pub(crate) waits_for: Option<String>,
    /// Since when.
    pub(crate) since: Option<Timestamp>,
    /// What to do, or to look at, if it takes too long.
    pub(crate) advice: Option<String>,
}

impl Standing {
    /// Of a registration whose last step was at `since`.
    pub(super) fn of(registration: &Registration, since: Timestamp, places: &[Place], deployment: Option<&Deployment>) -> Self {
        let message = registration.document.message_id.as_deref().unwrap_or_default();
        match registration.status {
            Status::Deployed => Self { waits_for: None, since: None, advice: None },
            Status::Rejected => Self::waiting(
                "a better model",
                since,
                "register a version that reaches the baseline; for the same model, run, artifact and token it takes this one's place"
                    .into(),
            ),
            Status::Refused | Status::DeadLettered => Self::waiting("a person", since, repair(message, places)),
            Status::Queued | Status::Deploying => Self { since: Some(since), ..Self::under_way(message, places, deployment) },
        }
    }

    /// Of a message without a registration here.
    pub(super) fn of_message(message: &str, places: &[Place], deployment: Option<&Deployment>) -> Self {
        match deployment.map(|deployment| deployment.state) {
            Some(DeploymentState::Final) => Self { waits_for: None, since: None, advice: None },
            Some(DeploymentState::Refused) => {
                Self { waits_for: Some("a person".into()), since: None, advice: Some(repair(message, places)) }
            }
            _ => Self::under_way(message, places, deployment),
        }
    }

    fn waiting(whom: &str, since: Timestamp, advice: String) -> Self {
        Self { waits_for: Some(whom.into()), since: Some(since), advice: Some(advice) }
    }

    fn under_way(message: &str, places: &[Place], deployment: Option<&Deployment>) -> Self {
        let (whom, advice) = match deployment.map(|deployment| (deployment.state, deployment)) {
            Some((
                DeploymentState::Planned | DeploymentState::Signed | DeploymentState::Broadcast | DeploymentState::Included,
                deployment,
            )) => on_chain(deployment),
            _ => in_queue(message, places),
        };
        Self { waits_for: Some(whom), since: None, advice: Some(advice) }
    }
}

fn repair(message: &str, places: &[Place]) -> String {
    match places.iter().find(|place| place.state == Some(State::Dlq)) {
        Some(Place { queue, .. }) => format!(
            "see why: hokusai queue dlq show {message} --queue {queue}; when the cause is mended: hokusai queue dlq redrive {message} --queue {queue} --execute"
        ),
        None => format!(
            "its message is in no dead-letter queue any more; when the cause is mended: hokusai queue republish {message} --execute"
        ),
    }
}

fn on_chain(deployment: &Deployment) -> (String, String) {
    let id = &deployment.id;
    let transaction = deployment.transaction_hash.map_or_else(|| "its transaction".to_owned(), |hash| format!("transaction {hash}"));
    match deployment.state {
        DeploymentState::Planned => {
            let reason = deployment.reason.as_ref().map(|reason| format!(" (it was put back: {reason})")).unwrap_or_default();
            (
                format!("the deployer's next transaction{reason}"),
                "is hokusai worker running, and what does its log say of the chain?".into(),
            )
        }
        DeploymentState::Signed | DeploymentState::Broadcast => {
            (format!("{transaction} to be included in a block"), format!("if it takes long: hokusai deployment bump {id}"))
        }
        _ => {
            let block = deployment.block_number.map_or_else(|| "its block".to_owned(), |block| format!("block {block}"));
            (format!("{block} to be final"), format!("nothing, unless the chain stands still: hokusai deployment show {id}"))
        }
    }
}

fn in_queue(message: &str, places: &[Place]) -> (String, String) {
    let Some(place) = places.iter().max_by_key(|place| place.state.is_some()) else {
        return (
            "a queue to be subscribed to model_ready_to_deploy".into(),
            "start hokusai serve, which subscribes MESSAGE_QUEUE_NAME, or hokusai subscription add".into(),
        );
    };
    let queue = &place.queue;
    if let Some(error) = &place.error {
        return (format!("queue {queue}, which does not answer"), error.clone());
    }
    match place.state {
        Some(State::Main) => match &place.paused {
            Some(pause) => (format!("queue {queue}, which is {pause}"), format!("hokusai queue resume --queue {queue}")),
            None => (
                format!("a worker to take it from {queue}"),
                format!("is one running, and is it connected to this queue? hokusai queue stats --queue {queue}"),
            ),
        },
        Some(State::Processing) => (
            format!("the consumer that took it from {queue}"),
            "if that one is gone, its lease ends within PROCESSING_TIMEOUT and it is delivered again, as long as a reaper runs (hokusai serve)".into(),
        ),
        Some(State::Delayed) => (
            format!("its next attempt on {queue}, after {} failed", place.retry_count.unwrap_or(0)),
            "the log of the consumer says why the last one failed".into(),
        ),
        Some(State::Dlq) => ("a person".into(), repair(message, places)),
        None => nowhere(message, place),
    }
}

fn nowhere(message: &str, place: &Place) -> (String, String) {
    let queue = &place.queue;
    if let Some(reason) = &place.relay_stopped {
        return (format!("the relay to {queue}, which is stopped"), reason.clone());
    }
    if place.finished_at.is_some() {
        return (
            "the report of whoever acknowledged it".into(),
            "a consumer finished the message and told nobody of a token; the reconciler of hokusai serve asks the chain, and publishes it again if there is none".into(),
        );
    }
    if place.published {
        return (
            format!("a word of what became of it on {queue}"),
            format!(
                "it is in no list of the queue: hokusai queue audit --queue {queue}; to deliver it once more: hokusai queue republish {message} --execute"
            ),
        );
    }
    (
        format!("the relay to bring it to {queue}"),
        "is hokusai serve running, and does it reach the queue? see services.relay in /health?detailed=true".into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(state: Option<State>) -> Place {
        Place { queue: "Q".into(), published: true, state, ..Place::default() }
    }

    fn waits_for(places: &[Place]) -> String {
        Standing::of_message("m", places, None).waits_for.unwrap()
    }

    #[test]
    fn it_says_whom_it_waits_for() {
        assert_eq!(waits_for(&[place(Some(State::Main))]), "a worker to take it from Q");
        assert_eq!(waits_for(&[place(Some(State::Processing))]), "the consumer that took it from Q");
        assert_eq!(waits_for(&[place(Some(State::Dlq))]), "a person");
        assert_eq!(waits_for(&[place(None)]), "a word of what became of it on Q");
        assert_eq!(waits_for(&[Place { published: false, ..place(None) }]), "the relay to bring it to Q");
        assert_eq!(waits_for(&[]), "a queue to be subscribed to model_ready_to_deploy");
        let paused = hokusai_queue::Pause { by: "ada".into(), reason: "gas".into(), at: jiff::Timestamp::UNIX_EPOCH };
        assert_eq!(waits_for(&[Place { paused: Some(paused), ..place(Some(State::Main)) }]), "queue Q, which is paused by ada (gas)");
        // Of several queues the one that holds it.
        assert_eq!(waits_for(&[place(None), place(Some(State::Delayed))]), "its next attempt on Q, after 0 failed");
    }

    #[test]
    fn a_dead_letter_is_named_with_the_command_that_repairs() {
        let advice = Standing::of_message("m-1", &[place(Some(State::Dlq))], None).advice.unwrap();
        assert!(advice.contains("hokusai queue dlq redrive m-1 --queue Q --execute"), "{advice}");
    }
}
