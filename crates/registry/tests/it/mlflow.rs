//! Registering with a real MLflow server.
