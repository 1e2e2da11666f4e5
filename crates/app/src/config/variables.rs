//! The one table of variables: what `hokusai config` shows and `docs/configuration.md` is generated from.

/// How a value is shown to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secrecy {
    /// As it is.
    Open,
    /// Never.
    Secret,
    /// An address: its user, password, path and query are masked.
    Address,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Storage,
    Queue,
    Chain,
    Mlflow,
    Server,
    Log,
}

impl Section {
    const ALL: [Self; 6] = [Self::Storage, Self::Queue, Self::Chain, Self::Mlflow, Self::Server, Self::Log];

    fn title(self) -> &'static str {
        match self {
            Self::Storage => "Storage",
            Self::Queue => "Queue",
            Self::Chain => "Chain",
            Self::Mlflow => "MLflow",
            Self::Server => "Server and client",
            Self::Log => "Logs",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Variable {
    pub(crate) name: &'static str,
    pub(crate) section: Section,
    pub(crate) default: &'static str,
    pub(crate) secret: Secrecy,
    pub(crate) meaning: &'static str,
}

const fn open(section: Section, name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, section, default, secret: Secrecy::Open, meaning }
}

const fn secret(section: Section, name: &'static str, meaning: &'static str) -> Variable {
    Variable { name, section, default: "", secret: Secrecy::Secret, meaning }
}

const fn address(section: Section, name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, section, default, secret: Secrecy::Address, meaning }
}

use Section::{Chain, Log, Mlflow, Queue, Server, Storage};

pub(crate) const VARIABLES: &[Variable] = &[
    address(
        Storage,
        "DATABASE_URL",
        "`hokusai.db` in the data directory",
        "Registry, outbox and ledger, and the local queue: `sqlite:PATH` or `postgres://user:password@host/database`. An SQLite file serves one host.",
    ),
    open(
        Storage,
        "HOKUSAI_DATA_DIR",
        "`$XDG_DATA_HOME/hokusai`, else `~/.local/share/hokusai`",
        "Where files are kept when no other place is named.",
    ),
    open(Storage, "XDG_DATA_HOME", "", "The user's directory for data, by the XDG convention; used for the default of `HOKUSAI_DATA_DIR`."),
    open(Storage, "HOME", "", "The user's home; used for the default of `HOKUSAI_DATA_DIR`."),
    open(
        Queue,
        "MESSAGE_QUEUE_TYPE",
        "`redis` if a Redis variable is set, else `local`",
        "`redis`, or `local`: the queue inside `DATABASE_URL`.",
    ),
    open(
        Queue,
        "MESSAGE_QUEUE_NAME",
        "`hokusai:model_ready_queue`",
        "The queue of `model_ready_to_deploy` messages. In Redis Cluster write it with a hash tag.",
    ),
    address(Queue, "REDIS_URL", "", "`redis://`, `rediss://` (TLS) or `unix://`. Wins over `REDIS_HOST`."),
    open(Queue, "REDIS_HOST", "", "The server, when there is no `REDIS_URL`."),
    open(Queue, "REDIS_PORT", "`6379`", "Its port."),
    secret(Queue, "REDIS_PASSWORD", "Password, for `REDIS_HOST` or a `REDIS_URL` without one."),
    secret(
        Queue,
        "REDIS_AUTH_TOKEN",
        "As `REDIS_PASSWORD`; with `REDIS_HOST` it implies TLS, as ElastiCache demands, unless `HOKUSAI_REDIS_TLS=false`.",
    ),
    open(
        Queue,
        "REDIS_SSL_CERT_REQS",
        "`required`",
        "How a TLS server's certificate is checked: `required`, or `none` (not at all: testing only). `optional` is the same as `required`, since a server always has one.",
    ),
    open(Queue, "HOKUSAI_REDIS_CA_FILE", "", "A PEM file with the authorities to trust instead of the public ones."),
    open(Queue, "HOKUSAI_REDIS_TLS", "", "`true` or `false`: TLS for `REDIS_HOST`, whatever the token implies."),
    open(
        Queue,
        "MESSAGE_RETRY_MAX",
        "`3`",
        "Retries before the dead-letter queue; 3 means four deliveries. A message's own `max_retries` wins.",
    ),
    open(Queue, "MESSAGE_RETRY_BASE_DELAY", "`1.0`", "Seconds before the first retry; doubles with each, with jitter."),
    open(
        Queue,
        "QUEUE_POLL_INTERVAL",
        "`5`",
        "Seconds a worker waits for a first message before it looks around; a message arriving meanwhile is taken at once.",
    ),
    open(Queue, "PROCESSING_TIMEOUT", "`300`", "Seconds after which a message that nobody finished or extended is delivered again."),
    open(Queue, "HOKUSAI_CONCURRENCY", "`16`", "Messages a worker or `consume` handles at once (the brief's `batch_size`)."),
    open(
        Queue,
        "HOKUSAI_HANDLER_TIMEOUT",
        "half of `PROCESSING_TIMEOUT`",
        "Seconds a handler may take before its attempt counts as failed. Must be less than `PROCESSING_TIMEOUT`.",
    ),
    open(
        Queue,
        "HOKUSAI_SUBSCRIPTIONS",
        "",
        "Further queues and the message types each receives, as in `site=model_ready_to_deploy+model_deployed;audit=model_registered`.",
    ),
    open(
        Queue,
        "HOKUSAI_OUTBOX_RETENTION",
        "`2592000` (30 days)",
        "Seconds an event stays in the outbox at least. It stays longer while a subscribed queue has not finished it or its registration is open.",
    ),
    open(
        Queue,
        "HOKUSAI_RECONCILE_AFTER",
        "`3600`",
        "Seconds after which a server with a chain to ask publishes a `model_ready_to_deploy` again that is neither queued nor on the chain; three times at most. Set it only where every deployer uses that chain's registry.",
    ),
    open(Queue, "USER", "", "Who pauses or repairs a queue, as histories tell it; `--by` wins."),
    open(Queue, "HOKUSAI_DEPLOYED_QUEUE", "`hokusai:model_deployed`", "The queue by which workers tell the server about deployed tokens."),
    address(
        Chain,
        "WEB3_PROVIDER_URL",
        "",
        "JSON-RPC address of an EVM node, or several separated by commas, tried in order. `demo` and `dev` bring their own chain.",
    ),
    secret(Chain, "DEPLOYER_PRIVATE_KEY", "Private key of the deployer account, 32 bytes in hex."),
    open(
        Chain,
        "HOKUSAI_DEPLOYER_KEYSTORE",
        "",
        "An encrypted keystore file (version 3, as geth and `cast wallet` write it) instead of `DEPLOYER_PRIVATE_KEY`.",
    ),
    secret(Chain, "HOKUSAI_DEPLOYER_KEYSTORE_PASSWORD", "Its password."),
    open(
        Chain,
        "HOKUSAI_DEPLOYER_KMS_KEY_ID",
        "",
        "Id, ARN or alias of a key in AWS KMS (`ECC_SECG_P256K1`, `SIGN_VERIFY`) instead of `DEPLOYER_PRIVATE_KEY`; it must be allowed `kms:GetPublicKey` and `kms:Sign`. Region, credentials and endpoint come from the standard variables of AWS (`AWS_REGION`, `AWS_PROFILE`, `AWS_ENDPOINT_URL_KMS`, ...), the instance or the pod.",
    ),
    open(
        Chain,
        "HOKUSAI_DEPLOYER_ADDRESS",
        "",
        "The address that the deployer's key must have; with any other nothing starts. Required for a key in KMS: unset, the error says which address the key has.",
    ),
    open(Chain, "HOKUSAI_REGISTRY_ADDRESS", "", "Address of the token registry, as `hokusai contracts deploy` printed it."),
    open(Chain, "HOKUSAI_CHAIN_ID", "", "Refuse to work on any other chain."),
    open(
        Chain,
        "HOKUSAI_CONFIRMATIONS",
        "by chain",
        "Blocks on top of a transaction's before it counts as final, or `finalized` for the chain's own mark. Required for chains that are not known.",
    ),
    open(Chain, "HOKUSAI_MAX_FEE_GWEI", "`200`", "The most to pay per unit of gas, base fee and tip together."),
    open(
        Chain,
        "HOKUSAI_MAX_SPEND_PER_HOUR",
        "no limit",
        "Ether that may be spent on fees within an hour; above it nothing new is signed.",
    ),
    open(Chain, "HOKUSAI_LOW_BALANCE", "", "Ether of the deployer account below which the log warns."),
    open(Chain, "HOKUSAI_MIN_BALANCE", "`0`", "Ether that must be left on the deployer account; nothing is signed that may take it below."),
    open(
        Chain,
        "HOKUSAI_LEDGER_RETENTION",
        "`7776000` (90 days)",
        "Seconds that a deployment stays in the worker's ledger after it became final or was refused; a day at least, 0 for ever. What is under way stays whatever its age, and a version that was forgotten is found on the chain if it is asked for again.",
    ),
    address(
        Mlflow,
        "MLFLOW_TRACKING_URI",
        "",
        "The MLflow server whose registry holds the models. Without it our own registry numbers the versions.",
    ),
    secret(Mlflow, "MLFLOW_TRACKING_USERNAME", "User for MLflow."),
    secret(Mlflow, "MLFLOW_TRACKING_PASSWORD", "Password for MLflow."),
    secret(Mlflow, "MLFLOW_TRACKING_TOKEN", "Bearer token for MLflow, instead of user and password."),
    open(Mlflow, "MLFLOW_HTTP_REQUEST_TIMEOUT", "`10`", "Seconds a call to MLflow may take."),
    open(Mlflow, "MLFLOW_TRACKING_INSECURE_TLS", "`false`", "`true`: MLflow's certificate is not checked (testing only)."),
    open(Mlflow, "MLFLOW_TRACKING_SERVER_CERT_PATH", "", "A PEM file with the authorities to trust for MLflow instead of the public ones."),
    open(Mlflow, "MLFLOW_TRACKING_CLIENT_CERT_PATH", "", "A PEM file with our certificate for MLflow and its key."),
    open(Mlflow, "MLFLOW_TRACKING_AWS_SIGV4", "", "Not supported; `true` is an error rather than a request that MLflow refuses."),
    secret(
        Mlflow,
        "HOKUSAI_MLFLOW_WEBHOOK_SECRET",
        "Signs MLflow's webhooks to `POST /integrations/mlflow`, at least 16 characters; `hokusai mlflow connect` gives it to MLflow.",
    ),
    open(
        Mlflow,
        "HOKUSAI_MLFLOW_SWEEP",
        "`60`",
        "Seconds between two searches for tagged model versions whose webhook never came; `0` for none.",
    ),
    open(Server, "HOKUSAI_LISTEN", "`127.0.0.1:8001`", "Where `serve` and `dev` answer HTTP."),
    open(Server, "HOKUSAI_RPC_LISTEN", "`127.0.0.1:8545`", "Where `dev` answers JSON-RPC for its chain."),
    address(Server, "HOKUSAI_API_URL", "", "A hokusai server: `register`, `registration` and Python work through it and need no database."),
    secret(Server, "HOKUSAI_API_KEY", "The key to show to that server."),
    open(
        Log,
        "LOG_LEVEL",
        "`INFO`",
        "`ERROR`, `WARNING`, `INFO`, `DEBUG` or `TRACE`, or a list of filters such as `info,hokusai_queue=debug`.",
    ),
    open(Log, "HOKUSAI_LOG_FORMAT", "`text` on a terminal, else `json`", "`text` or `json`."),
];

/// `docs/configuration.md`.
pub(crate) fn document() -> String {
    use std::fmt::Write as _;
    let mut page = String::from(
        "# Configuration\n\n<!-- Generated from the program's own table: UPDATE_DOCS=1 cargo test -p hokusai configuration_page -->\n\n\
         All settings are environment variables. An empty variable counts as unset. `hokusai config` prints the values in effect, \
         secrets masked. What a command needs and does not find is an error that names the variable; nothing falls back to a stand-in.\n",
    );
    for section in Section::ALL {
        write!(page, "\n## {}\n\n| variable | default | meaning |\n|---|---|---|\n", section.title())
            .expect("writing to a String cannot fail");
        for variable in VARIABLES.iter().filter(|variable| variable.section == section) {
            let secret = if variable.secret == Secrecy::Secret { " *Secret.*" } else { "" };
            writeln!(page, "| `{}` | {} | {}{secret} |", variable.name, variable.default, variable.meaning)
                .expect("writing to a String cannot fail");
        }
    }
    page
}
