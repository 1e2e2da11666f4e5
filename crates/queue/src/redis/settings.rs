//! How to reach a Redis: what `REDIS_URL`, or the pieces of it, say. The password is never shown.

use std::{fmt, path::PathBuf, str::FromStr};

use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, TlsCertificates};
use url::Url;

use crate::ConfigError;

const DEFAULT_PORT: u16 = 6379;

/// Whether the server's certificate is verified: `REDIS_SSL_CERT_REQS`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CertificateCheck {
    /// It must be valid for the host. Python's `optional` means the same to a client.
    #[default]
    Required,
    /// Anything is accepted: the connection is encrypted, to whoever answers.
    None,
}

impl FromStr for CertificateCheck {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "required" | "optional" => Ok(Self::Required),
            "none" => Ok(Self::None),
            other => Err(ConfigError::new("REDIS_SSL_CERT_REQS", format!("must be required, optional or none, not `{other}`"))),
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
enum Address {
    Tcp { host: String, port: u16, tls: Option<CertificateCheck> },
    Unix(PathBuf),
}

/// Where a Redis is and how to log in. Built from a URL or from a host, then completed piece by piece.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisSettings {
    address: Address,
    db: i64,
    username: Option<String>,
    password: Option<String>,
    ca_pem: Option<Vec<u8>>,
}

impl RedisSettings {
    /// Reads `redis://`, `rediss://` (TLS) or `unix://`, with user, password and database as redis-py reads them,
    /// `?ssl_cert_reqs=` and `?db=` included.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names what cannot be read; it never repeats the URL, which may hold a password.
    pub fn from_url(text: &str) -> Result<Self, ConfigError> {
        let bad = |problem: String| ConfigError::new("REDIS_URL", problem);
        let url = redis::parse_redis_url(text)
            .ok_or_else(|| bad("must be an address such as redis://:password@host:6379/0, rediss://… or unix://…".into()))?;
        // A bare `redis://` means the default host to redis-py, and nothing to the parser.
        let url =
            if url.host().is_none() && !is_unix(&url) { with_host(url, text).ok_or_else(|| bad("names no host".into()))? } else { url };
        let query: Vec<(String, String)> = url.query_pairs().map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
        let query = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let info = url.clone().into_connection_info().map_err(|error| bad(error.to_string()))?;
        let mut settings = Self::from_info(&info)?;
        if let Some(check) = query("ssl_cert_reqs") {
            settings = settings.certificate_check(check.parse()?);
        }
        if let Some(db) = query("db") {
            settings.db = db.parse().map_err(|_| bad(format!("the database must be a number, not `{db}`")))?;
        }
        if let Some(password) = query("password") {
            settings.password = Some(password);
        }
        Ok(settings)
    }

    /// A host on its own, as `REDIS_HOST` and `REDIS_PORT` say it.
    pub fn from_host(host: impl Into<String>, port: Option<u16>, tls: bool) -> Self {
        let tls = tls.then(CertificateCheck::default);
        let address = Address::Tcp { host: host.into(), port: port.unwrap_or(DEFAULT_PORT), tls };
        Self { address, db: 0, username: None, password: None, ca_pem: None }
    }

    /// Logs in with this password, whatever was said before.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Logs in as this user.
    #[must_use]
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// How the certificate is checked; without TLS it has no effect.
    #[must_use]
    pub fn certificate_check(mut self, check: CertificateCheck) -> Self {
        if let Address::Tcp { tls: Some(tls), .. } = &mut self.address {
            *tls = check;
        }
        self
    }

    /// Trusts this authority (PEM) instead of the well-known ones.
    #[must_use]
    pub fn ca_pem(mut self, pem: Vec<u8>) -> Self {
        self.ca_pem = Some(pem);
        self
    }

    /// Whether a password is set.
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self.address, Address::Tcp { tls: Some(_), .. })
    }

    fn from_info(info: &ConnectionInfo) -> Result<Self, ConfigError> {
        let address = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Address::Tcp { host: host.clone(), port: *port, tls: None },
            ConnectionAddr::TcpTls { host, port, insecure, .. } => {
                let check = if *insecure { CertificateCheck::None } else { CertificateCheck::Required };
                Address::Tcp { host: host.clone(), port: *port, tls: Some(check) }
            }
            ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
            _ => return Err(ConfigError::new("REDIS_URL", "this kind of address is not supported")),
        };
        let login = info.redis_settings();
        Ok(Self {
            address,
            db: login.db(),
            username: login.username().map(str::to_owned),
            password: login.password().map(str::to_owned),
            ca_pem: None,
        })
    }

    pub(super) fn client(&self) -> redis::RedisResult<Client> {
        let mut login = RedisConnectionInfo::default().set_db(self.db).set_lib_name("hokusai", env!("CARGO_PKG_VERSION"));
        if let Some(username) = &self.username {
            login = login.set_username(username);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        let address = match &self.address {
            Address::Unix(path) => ConnectionAddr::Unix(path.clone()),
            Address::Tcp { host, port, tls: None } => ConnectionAddr::Tcp(host.clone(), *port),
            Address::Tcp { host, port, tls: Some(check) } => {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: *check == CertificateCheck::None, tls_params: None }
            }
        };
        let info = address.into_connection_info()?.set_redis_settings(login);
        match &self.ca_pem {
            Some(pem) if self.is_tls() => Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) }),
            _ => Client::open(info),
        }
    }
}

/// The address without the password.
impl fmt::Display for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = match (&self.username, &self.password) {
            (None, None) => String::new(),
            (Some(user), None) => format!("{user}@"),
            (user, Some(_)) => format!("{}:***@", user.as_deref().unwrap_or_default()),
        };
        match &self.address {
            Address::Unix(path) => write!(f, "unix://{login}{}?db={}", path.display(), self.db),
            Address::Tcp { host, port, tls } => {
                let scheme = if tls.is_some() { "rediss" } else { "redis" };
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                write!(f, "{scheme}://{login}{host}:{port}/{}", self.db)
            }
        }
    }
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisSettings({self})")
    }
}

fn is_unix(url: &Url) -> bool {
    matches!(url.scheme(), "unix" | "redis+unix" | "valkey+unix")
}

fn with_host(url: Url, text: &str) -> Option<Url> {
    (url.username().is_empty() && url.password().is_none() && !text.contains('@'))
        .then(|| Url::parse(&format!("{}://localhost{}", url.scheme(), url.path())).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, shown: &str) {
        let settings = RedisSettings::from_url(url).unwrap();
        assert_eq!(settings.to_string(), shown);
        assert!(!format!("{settings:?}").contains("s3cret"));
    }

    #[test]
    fn urls_are_read_as_redis_py_reads_them() {
        check("redis://localhost:6379/0", "redis://localhost:6379/0");
        check("redis://", "redis://localhost:6379/0");
        check("redis://:s3cret@host/3", "redis://:***@host:6379/3");
        check("redis://user:s3cret%2F@[::1]:7000", "redis://user:***@[::1]:7000/0");
        check("rediss://host:6380/0?ssl_cert_reqs=none", "rediss://host:6380/0");
        check("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2");
        assert_eq!(RedisSettings::from_url("redis://:s3cret%2F@h").unwrap().password.as_deref(), Some("s3cret/"));
    }

    #[test]
    fn an_unusable_url_is_not_repeated() {
        for url in ["http://:s3cret@host", "s3cret", "redis://:s3cret@host/abc", "rediss://:s3cret@h?ssl_cert_reqs=maybe"] {
            let error = RedisSettings::from_url(url).unwrap_err();
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn the_certificate_check_follows_the_setting() {
        let tls = RedisSettings::from_host("h", None, true).password("s3cret");
        assert_eq!(tls.to_string(), "rediss://:***@h:6379/0");
        for (text, check) in [("optional", CertificateCheck::Required), ("none", CertificateCheck::None)] {
            let settings = tls.clone().certificate_check(text.parse().unwrap());
            assert!(matches!(settings.address, Address::Tcp { tls: Some(found), .. } if found == check));
        }
    }
}
