use super::*;

const STEPS: &[Migration] = &[
    Migration {
        room: "a",
        sqlite: None,
        number: 1,
        sql: "CREATE TABLE a (id BIGINT PRIMARY KEY, body BYTEA NOT NULL, score DOUBLE PRECISION, name TEXT)",
    },
    Migration { room: "a", number: 2, sql: "CREATE TABLE b (id BIGINT); CREATE INDEX b_id ON b (id)", sqlite: None },
];

type Row = (i64, Vec<u8>, Option<f64>, Option<String>);

/// Everything a room relies on, checked alike on both databases.
async fn check(url: &str) {
    let db = Database::open(url).await.unwrap();
    let other = Database::open(url).await.unwrap();
    // Two that start together: both succeed, each step is applied once.
    let (first, second) = tokio::join!(db.migrate(STEPS), other.migrate(STEPS));
    first.unwrap();
    second.unwrap();

    let mut tx = db.write().await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("INSERT INTO a (id, body, score, name) VALUES {}", placeholders(2, 4))))
        .bind(1_i64)
        .bind(&b"\x00\xff"[..])
        .bind(0.5_f64)
        .bind("x")
        .bind(i64::MAX)
        .bind(Vec::<u8>::new())
        .bind(None::<f64>)
        .bind(None::<String>)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let rows: Vec<Row> = sqlx::query_as("SELECT id, body, score, name FROM a ORDER BY id").fetch_all(other.reader()).await.unwrap();
    assert_eq!(rows, [(1, vec![0, 255], Some(0.5), Some("x".into())), (i64::MAX, vec![], None, None)]);

    // A dropped transaction leaves nothing.
    let mut tx = db.write().await.unwrap();
    sqlx::query("DELETE FROM a").execute(&mut *tx).await.unwrap();
    drop(tx);
    let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM a").fetch_one(other.reader()).await.unwrap();
    assert_eq!(left, 2);

    let mut tx = db.write().await.unwrap();
    let twice = sqlx::query("INSERT INTO a (id, body) VALUES ($1, $2)").bind(1_i64).bind(&b""[..]).execute(&mut *tx).await;
    assert!(matches!(Error::from(twice.unwrap_err()), Error::Exists(_)));
    drop(tx);

    assert!(matches!(db.migrate(&STEPS[..1]).await, Err(Error::Newer { found: 2, known: 1, .. })));
}

#[tokio::test]
async fn sqlite() {
    let dir = tempfile::tempdir().unwrap();
    check(&format!("sqlite:{}/it is.db", dir.path().display())).await;
}

#[tokio::test]
async fn postgres() {
    let server = hokusai_testbed::Postgres::start().await;
    check(&server.database().await).await;
}

#[tokio::test]
async fn a_failed_migration_names_its_step_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(&format!("sqlite:{}/x.db", dir.path().display())).await.unwrap();
    let broken = Migration { room: "a", number: 1, sql: "CREATE TABLE z (id BIGINT); SELECT nonsense", sqlite: None };
    let error = db.migrate(&[broken]).await.unwrap_err();
    assert!(error.to_string().starts_with("migration a/1 failed"), "{error}");
    assert!(sqlx::query("SELECT 1 FROM z").fetch_optional(db.reader()).await.is_err());
}

#[tokio::test]
async fn unusable_addresses_are_refused_without_their_password() {
    for url in ["", "mysql://u:secret@h/d", "sqlite:", "sqlite::memory:", "postgres://u:secret@[h/d"] {
        let error = Database::open(url).await.unwrap_err().to_string();
        assert!(error.starts_with("DATABASE_URL: "), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
    let target = Target::parse("postgres://u:secret@h:5/d?password=secret").unwrap();
    assert_eq!(target.display, "postgres://u:***@h:5/d");
}
