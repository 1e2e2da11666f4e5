//! Where a model lies, as MLflow's users write it, and what it says about the model's run.

use hokusai_event::{Invalid, RUN_ID_MAX_CHARS, check_text};

/// The longest model URI, in characters.
pub const MODEL_URI_MAX_CHARS: usize = 2_000;

const FIELD: &str = "model_uri";

/// A model URI, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelUri {
    /// `runs:/<run>/<path>`: an artifact of a run.
    Run {
        /// The run.
        run_id: String,
        /// The artifact's path inside the run.
        path: String,
    },
    /// `models:/<name>/<version>`: a registered version.
    Version {
        /// The registered model.
        name: String,
        /// Its version, as MLflow numbers them.
        version: u32,
    },
    /// `models:/<name>@<alias>`: the version that an alias names now.
    Alias {
        /// The registered model.
        name: String,
        /// The alias.
        alias: String,
    },
    /// `models:/m-…`: a logged model, as MLflow 3 answers from `log_model`.
    Logged {
        /// The logged model's id.
        model_id: String,
    },
    /// Anywhere else: `s3://…`, `mlflow-artifacts:/…`, a path.
    Elsewhere(String),
}

impl ModelUri {
    /// Takes a URI apart. What begins with `runs:` or `models:` must be complete.
    ///
    /// # Errors
    ///
    /// [`Invalid`] of the field `model_uri`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        check_text(text, FIELD, MODEL_URI_MAX_CHARS)?;
        if let Some(rest) = text.strip_prefix("runs:") {
            return run(rest).ok_or_else(|| Invalid::new(FIELD, "must be written runs:/<run id>/<artifact path>"));
        }
        if let Some(rest) = text.strip_prefix("models:") {
            return registered(rest).ok_or_else(|| {
                let forms = "models:/<name>/<version number>, models:/<name>@<alias> or models:/m-<logged model id>";
                Invalid::new(FIELD, format!("must be written {forms}; stages and `latest` name no version that stays the same"))
            });
        }
        Ok(Self::Elsewhere(text.to_owned()))
    }
}

/// The model to compare with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaselineUri {
    /// As it was written.
    pub text: String,
    /// Taken apart; of a run, the artifact's path does not matter and may be missing.
    pub location: ModelUri,
}

impl BaselineUri {
    /// Takes a baseline apart: a model whose run MLflow knows.
    ///
    /// # Errors
    ///
    /// [`Invalid`] of the field `baseline`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let of_run = text.strip_prefix("runs:").map(|rest| run(&format!("{}/model", rest.trim_end_matches('/'))));
        let location = match of_run {
            Some(run) => run.ok_or_else(|| Invalid::new("baseline", "must be written runs:/<run id>, or begin with models:/"))?,
            None => ModelUri::parse(text).map_err(|invalid| invalid.at("baseline"))?,
        };
        if let ModelUri::Elsewhere(_) = location {
            let forms = "runs:/<run id>, models:/<name>/<version number> or models:/<name>@<alias>";
            return Err(Invalid::new("baseline", format!("must be a model whose run MLflow knows: {forms}")));
        }
        Ok(Self { text: text.to_owned(), location })
    }
}

fn run(rest: &str) -> Option<ModelUri> {
    let (run_id, path) = rest.trim_start_matches('/').split_once('/')?;
    let path = path.trim_matches('/');
    let fits = !run_id.trim().is_empty() && run_id.chars().count() <= RUN_ID_MAX_CHARS && !path.trim().is_empty();
    fits.then(|| ModelUri::Run { run_id: run_id.to_owned(), path: path.to_owned() })
}

fn registered(rest: &str) -> Option<ModelUri> {
    let rest = rest.trim_start_matches('/').trim_end_matches('/');
    if let Some((name, version)) = rest.split_once('/') {
        let plain = version.bytes().all(|byte| byte.is_ascii_digit()) && !version.starts_with('0') && !name.is_empty();
        let version = version.parse().ok().filter(|_| plain)?;
        return Some(ModelUri::Version { name: name.to_owned(), version });
    }
    if let Some((name, alias)) = rest.rsplit_once('@') {
        return (!name.is_empty() && !alias.is_empty()).then(|| ModelUri::Alias { name: name.to_owned(), alias: alias.to_owned() });
    }
    let logged = rest.strip_prefix("m-").is_some_and(|id| id.len() >= 8 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    logged.then(|| ModelUri::Logged { model_id: rest.to_owned() })
}

/// The run in an artifact's location as MLflow lays them out: `…/<run id, 32 hex digits>/artifacts/…`.
pub(crate) fn run_in_location(location: &str) -> Option<&str> {
    let mut segments = location.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_run = segment.len() == 32 && segment.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_run && segments.peek() == Some(&"artifacts") {
            return Some(segment);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<ModelUri>) {
        assert_eq!(ModelUri::parse(text).ok(), expected, "{text}");
    }

    #[test]
    fn uris_are_taken_apart() {
        let run = |run_id: &str, path: &str| Some(ModelUri::Run { run_id: run_id.into(), path: path.into() });
        check("runs:/abc123/model", run("abc123", "model"));
        check("runs:///abc123/models/deep one/", run("abc123", "models/deep one"));
        check("models:/msg model/3", Some(ModelUri::Version { name: "msg model".into(), version: 3 }));
        check("models:/msg@champion", Some(ModelUri::Alias { name: "msg".into(), alias: "champion".into() }));
        check("models:/m-0123456789abcdef", Some(ModelUri::Logged { model_id: "m-0123456789abcdef".into() }));
        check("s3://bucket/key", Some(ModelUri::Elsewhere("s3://bucket/key".into())));
        check("/srv/models/one", Some(ModelUri::Elsewhere("/srv/models/one".into())));
    }

    #[test]
    fn incomplete_uris_are_refused() {
        for text in [
            "",
            " ",
            "runs:/",
            "runs:/abc",
            "runs://",
            "runs:/abc/",
            "models:/",
            "models:/a",
            "models:/a/0",
            "models:/a/latest",
            "models:/a/+1",
        ] {
            check(text, None);
        }
        check("models:/a/-1", None);
        check("models:/a/01", None);
        check("models:/a/3/4", None);
        check("models:/@x", None);
        check("runs:/a\nb/model", None);
    }

    #[test]
    fn baselines_are_taken_apart() {
        let run = |text: &str| match BaselineUri::parse(text).unwrap().location {
            ModelUri::Run { run_id, .. } => run_id,
            other => panic!("{other:?}"),
        };
        assert_eq!([run("runs:/abc"), run("runs:/abc/"), run("runs:/abc/model")], ["abc"; 3]);
        assert!(matches!(BaselineUri::parse("models:/msg@champion").unwrap().location, ModelUri::Alias { .. }));
        for text in ["", "runs:/", "s3://bucket/model", "0.75", "models:/msg/latest"] {
            assert_eq!(BaselineUri::parse(text).unwrap_err().field, "baseline", "{text}");
        }
    }

    #[test]
    fn a_run_is_found_in_an_artifact_location() {
        let run = "0123456789abcdef0123456789abcdef";
        assert_eq!(run_in_location(&format!("s3://b/7/{run}/artifacts/model")), Some(run));
        assert_eq!(run_in_location(&format!("mlflow-artifacts:/7/{run}/artifacts")), Some(run));
        assert_eq!(run_in_location(&format!("s3://b/{run}/model")), None);
        assert_eq!(run_in_location("s3://b/short/artifacts/model"), None);
    }
}
