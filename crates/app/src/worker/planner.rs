//! Plans the requests of handlers that run at the same time in one transaction of the ledger.
//!
//! Whoever comes while a transaction is being written waits for it to end; one of those who waited then plans for all of them. So
//! a crowd costs a commit for each crowd, and one alone waits for nobody.

use hokusai_deploy::{Deployment, Error, Ledger, token::TokenRequest};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Why a request could not be planned.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    /// Whether waiting mends it.
    pub(super) is_outage: bool,
    pub(super) words: String,
}

impl From<&Error> for Trouble {
    fn from(error: &Error) -> Self {
        Self { is_outage: error.outage().is_some(), words: error.to_string() }
    }
}

type Answer = Result<Deployment, Trouble>;

#[derive(Debug)]
pub(super) struct Planner {
    ledger: Ledger,
    waiting: Mutex<Vec<(TokenRequest, oneshot::Sender<Answer>)>>,
    turn: tokio::sync::Mutex<()>,
}

impl Planner {
    pub(super) fn new(ledger: Ledger) -> Self {
        Self { ledger, waiting: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// Records a request, and answers with its row. Dropped while it waits, the request may be planned or not.
    pub(super) async fn plan(&self, request: TokenRequest) -> Answer {
        let (answer, mut answered) = oneshot::channel();
        self.waiting.lock().push((request, answer));
        let _turn = self.turn.lock().await;
        if let Ok(answer) = answered.try_recv() {
            return answer;
        }
        let (requests, answers): (Vec<_>, Vec<_>) = std::mem::take(&mut *self.waiting.lock()).into_iter().unzip();
        for (planned, answer) in self.plan_all(&requests).await.into_iter().zip(answers) {
            // Whoever was dropped meanwhile needs no answer.
            let _ = answer.send(planned);
        }
        answered.await.unwrap_or_else(|_| Err(unanswered()))
    }

    async fn plan_all(&self, requests: &[TokenRequest]) -> Vec<Answer> {
        match self.ledger.plan(requests).await {
            Ok(planned) => planned.into_iter().map(Ok).collect(),
            // One of them must not be the undoing of the others.
            Err(error) if requests.len() > 1 && error.outage().is_none() => {
                let mut answers = Vec::with_capacity(requests.len());
                for request in requests {
                    let planned = self.ledger.plan(std::slice::from_ref(request)).await.map_err(|error| Trouble::from(&error));
                    answers.push(planned.and_then(|planned| planned.into_iter().next().ok_or_else(unanswered)));
                }
                answers
            }
            Err(error) => vec![Err(Trouble::from(&error)); requests.len()],
        }
    }
}

fn unanswered() -> Trouble {
    Trouble { is_outage: false, words: "the ledger answered nothing; this is a defect".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use alloy::primitives::Address;
    use async_trait::async_trait;
    use hokusai_db::{Database, Tx};
    use hokusai_deploy::{Change, Journal, JournalError, MIGRATIONS};

    use super::*;

    /// Counts transactions, and refuses those in which somebody is poison.
    #[derive(Debug, Default)]
    struct Gate(AtomicUsize);

    #[async_trait]
    impl Journal for Gate {
        async fn record(&self, _tx: &mut Tx, changes: &[Change]) -> Result<(), JournalError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            let poison = changes.iter().any(|change| change.deployment.request.symbol == "POISON");
            if poison { Err(JournalError("poison".into())) } else { Ok(()) }
        }

        fn committed(&self, _changes: &[Change]) {}
    }

    fn request(symbol: &str) -> TokenRequest {
        TokenRequest {
            symbol: symbol.into(),
            model_name: "m".into(),
            model_version: "1".into(),
            model_id: format!("m/1/{symbol}"),
            mlflow_run_id: "r".into(),
            metric_name: "accuracy".into(),
            baseline_value: 0.1,
            current_value: 0.2,
            lower_is_better: false,
            contributor: None,
            message_id: format!("message {symbol}"),
            correlation_id: "c".into(),
            registration_id: None,
        }
    }

    #[tokio::test]
    async fn a_crowd_is_planned_together_and_poison_alone_fails() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(&format!("sqlite:{}", dir.path().join("ledger.db").display())).await.unwrap();
        db.migrate(MIGRATIONS).await.unwrap();
        let gate = Arc::new(Gate::default());
        let planner = Planner::new(Ledger::new(db, 1, Address::ZERO, gate.clone()));
        let symbols: Vec<String> = (0..40).map(|number| format!("S-{number}")).collect();
        let planned = futures_util::future::join_all(symbols.iter().map(|symbol| planner.plan(request(symbol)))).await;
        for (symbol, planned) in symbols.iter().zip(planned) {
            assert_eq!(planned.unwrap().request.symbol, *symbol);
        }
        assert!(gate.0.load(Ordering::SeqCst) <= 2, "one for the first, one for those who came meanwhile");

        let crowd = ["A", "POISON", "B", "C"].map(request);
        let answers = futures_util::future::join_all(crowd.map(|request| planner.plan(request))).await;
        let fates: Vec<_> = answers.iter().map(|answer| answer.as_ref().map(|planned| planned.request.symbol.as_str()).ok()).collect();
        assert_eq!(fates, [Some("A"), None, Some("B"), Some("C")]);
        assert!(answers[1].as_ref().is_err_and(|trouble| !trouble.is_outage && trouble.words.contains("poison")));
    }
}
