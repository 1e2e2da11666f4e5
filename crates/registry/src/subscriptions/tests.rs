use super::*;

fn check(text: &str, expected: &[(&str, &[MessageType], Start)]) {
    let expected: Vec<Wanted> =
        expected.iter().map(|(queue, types, start)| Wanted { queue: (*queue).into(), types: types.to_vec(), start: *start }).collect();
    assert_eq!(parse(text).unwrap(), expected, "{text}");
}

#[test]
fn subscriptions_are_parsed() {
    use MessageType::{ModelDeployed, ModelRegistered};
    check("", &[]);
    check(" ; ", &[]);
    check("site=model_deployed", &[("site", &[ModelDeployed], Start::Now)]);
    check(
        "hokusai:site = model_registered + model_deployed @beginning; token=model_deployed+model_deployed@now;",
        &[("hokusai:site", &[ModelDeployed, ModelRegistered], Start::Beginning), ("token", &[ModelDeployed], Start::Now)],
    );
    let at = "2025-01-27T15:30:00Z".parse().unwrap();
    check("a=model_deployed@2025-01-27T15:30:00Z", &[("a", &[ModelDeployed], Start::At(at))]);
    assert_eq!(parse("a=*").unwrap()[0].types.len(), MessageType::ALL.len());
}

#[test]
fn what_cannot_be_read_is_quoted() {
    for text in ["site", "=model_deployed", "a b=model_deployed", "a=", "a=model_deploy", "a=model_deployed@later", "a=x;b=model_deployed"]
    {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(text.split(';').next().unwrap()), "{text}: {error}");
    }
}
