//! The description of the API, reviewed as a diff: a change of the contract shows up in the snapshot.
//!
//! That the server does what the document says is the claim of `tests/schemathesis`.

#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

use std::collections::BTreeSet;

use fanline::api::Document;
use serde_json::Value;
use utoipa::OpenApi;

fn document() -> Value {
    serde_json::to_value(Document::openapi()).unwrap()
}

#[test]
fn the_document_is_the_reviewed_one() {
    let mut document = document();
    document["info"]["version"] = "(of the crate)".into();
    insta::assert_snapshot!(serde_json::to_string_pretty(&document).unwrap());
}

#[test]
fn every_route_is_in_the_document() {
    let router = include_str!("../src/api/mod.rs");
    let document = document();
    let described: BTreeSet<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let routes: Vec<_> =
        router.split(".route(\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0)).collect();
    assert!(routes.len() > 5, "{routes:?}");
    for route in routes {
        let below_app = format!("/v1/apps/{{app}}{route}");
        let is_described = described.contains(route) || described.contains(below_app.as_str());
        assert!(is_described, "{route} is served but not described: annotate its handler");
    }
}

#[test]
fn every_operation_names_itself_and_its_refusals() {
    let document = document();
    let operations = document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(move |(method, operation)| (path, method, operation))
    });
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id), "{id} stands twice");
        assert!(operation["summary"].is_string(), "{method} {path}");
        for (status, response) in operation["responses"].as_object().unwrap() {
            let schema = &response["content"]["application/json"]["schema"]["$ref"];
            let is_refusal = !status.starts_with('2') && path.starts_with("/v1/");
            assert!(
                !is_refusal || schema == "#/components/schemas/RequestError",
                "{status} of {method} {path}"
            );
        }
    }
}
