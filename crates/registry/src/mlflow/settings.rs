//! How MLflow is reached, as its own environment variables say it.

use std::{fmt, time::Duration};

use url::Url;

use super::client::MlflowError;

/// Where MLflow is, and who we are there.
#[derive(Clone)]
pub struct MlflowSettings {
    /// `MLFLOW_TRACKING_URI`, http or https, perhaps with a path.
    pub tracking_uri: Url,
    /// `MLFLOW_TRACKING_USERNAME`.
    pub username: Option<String>,
    /// `MLFLOW_TRACKING_PASSWORD`.
    pub password: Option<String>,
    /// `MLFLOW_TRACKING_TOKEN`; used only without a username, as MLflow's own client does.
    pub token: Option<String>,
    /// How long one call may take.
    pub timeout: Duration,
    /// How the server's certificate is checked, and our own.
    pub tls: MlflowTls,
}

/// TLS as MLflow's own variables set it.
#[derive(Clone, Default)]
pub struct MlflowTls {
    /// `MLFLOW_TRACKING_INSECURE_TLS`: the server's certificate is not checked at all.
    pub insecure: bool,
    /// The contents of `MLFLOW_TRACKING_SERVER_CERT_PATH`: the authorities to trust instead of the public ones, in PEM.
    pub authorities_pem: Option<Vec<u8>>,
    /// The contents of `MLFLOW_TRACKING_CLIENT_CERT_PATH`: our certificate and its key, in PEM.
    pub client_pem: Option<Vec<u8>>,
}

impl MlflowSettings {
    /// Without credentials, and a timeout of 10 seconds.
    pub fn new(tracking_uri: Url) -> Self {
        Self { tracking_uri, username: None, password: None, token: None, timeout: Duration::from_secs(10), tls: MlflowTls::default() }
    }
}

impl fmt::Debug for MlflowSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MlflowSettings")
            .field("tracking_uri", &without_credentials(&self.tracking_uri).as_str())
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

pub(super) fn unusable(variable: &'static str, problem: impl Into<String>) -> MlflowError {
    MlflowError::Settings { variable, problem: problem.into() }
}

pub(super) fn with_tls(mut http: reqwest::ClientBuilder, tls: &MlflowTls) -> Result<reqwest::ClientBuilder, MlflowError> {
    if tls.insecure {
        http = http.tls_danger_accept_invalid_certs(true);
    }
    if let Some(pem) = &tls.authorities_pem {
        let refused = |problem: String| unusable("MLFLOW_TRACKING_SERVER_CERT_PATH", problem);
        let authorities = reqwest::Certificate::from_pem_bundle(pem).map_err(|error| refused(error.to_string()))?;
        if authorities.is_empty() {
            return Err(refused("the file holds no certificate in PEM".into()));
        }
        http = http.tls_certs_only(authorities);
    }
    if let Some(pem) = &tls.client_pem {
        let identity = reqwest::Identity::from_pem(pem);
        http = http.identity(identity.map_err(|error| unusable("MLFLOW_TRACKING_CLIENT_CERT_PATH", error.to_string()))?);
    }
    Ok(http)
}

pub(super) fn without_credentials(url: &Url) -> Url {
    let mut url = url.clone();
    // Both fail only for addresses that cannot hold credentials at all.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url
}
