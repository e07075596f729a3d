//! Images are pushed as a registry wants them, and secrets go to it alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod registry;

use std::cell::RefCell;
use std::time::Duration;

use registry::{Registry as Server, RegistryAuth};
use ureq::Agent;
use ureq::config::Config;
use wws_image::{Blob, Credentials, Image, ImageError, Reference, Registry, RegistryAccess};

fn agent() -> Agent {
    Config::builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .proxy(None)
        .build()
        .new_agent()
}

fn blobs() -> Vec<Blob> {
    let large = vec![7; 300_000];
    let image = Image::new("x").everywhere().file("w.wasm", large, 0o644);
    image.unwrap().into_blobs().unwrap()
}

fn push(server: &Server, credentials: Option<Credentials>) -> Result<Vec<bool>, ImageError> {
    let name = Reference::parse(&format!("{}/team/hello:v1", server.address)).unwrap();
    let had = RefCell::new(Vec::new());
    let pushed = |_: &Blob, one: bool| had.borrow_mut().push(one);
    Registry::new(agent(), name, credentials, RegistryAccess::Push)?.push(&blobs(), &pushed)?;
    Ok(had.into_inner())
}

fn user() -> Option<Credentials> {
    Some(Credentials::new("user", "pass"))
}

#[test]
fn an_image_arrives_whole_whoever_has_to_push_it() {
    for wanted in [
        RegistryAuth::Nobody,
        RegistryAuth::Basic,
        RegistryAuth::Token,
    ] {
        let server = Server::start(wanted);
        let credentials = user().filter(|_| wanted != RegistryAuth::Nobody);
        // A layer, and configuration and manifest of each platform, and the index.
        assert_eq!(push(&server, credentials.clone()).unwrap(), [false; 8]);
        {
            let state = server.state.lock().unwrap();
            // The index by its tag and by its digest.
            assert_eq!((state.blobs.len(), state.manifests.len()), (4, 5));
            let (kind, index) = &state.manifests["v1"];
            assert_eq!(kind, "application/vnd.oci.image.index.v1+json");
            let expected = blobs().last().unwrap().bytes().unwrap();
            assert_eq!(*index, expected);
        }
        // What is there is not sent again.
        let again = push(&server, credentials).unwrap();
        assert_eq!(again.iter().filter(|had| **had).count(), 4);
        let state = server.state.lock().unwrap();
        let uploads = state
            .requests
            .iter()
            .filter(|one| one.starts_with("PUT /v2/team/hello/blobs/"));
        assert_eq!(uploads.count(), 4, "{:?}", state.requests);
    }
}

#[test]
fn a_registry_that_refuses_is_explained() {
    let other = || Some(Credentials::new("user", "wrong"));
    for (wanted, credentials, text) in [
        (
            RegistryAuth::Token,
            other(),
            "cannot get a token: 401 Unauthorized, wrong user",
        ),
        (RegistryAuth::Token, None, "cannot get a token: 401"),
        (RegistryAuth::Basic, None, "wants a user: `docker login"),
        (RegistryAuth::Basic, other(), "cannot look for a blob: 401"),
        (
            RegistryAuth::Forbidden,
            None,
            "cannot begin an upload: 403 Forbidden, not [2Jyours",
        ),
    ] {
        let server = Server::start(wanted);
        let error = push(&server, credentials).unwrap_err().to_string();
        assert!(error.contains(text), "{text}: {error}");
        assert!(error.contains(&server.address.to_string()), "{error}");
        assert!(
            !error.contains("pass") && !error.contains('\u{1b}'),
            "{error}"
        );
        assert!(server.state.lock().unwrap().manifests.is_empty());
    }
    let closed = Server::start(RegistryAuth::Nobody);
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let nobody = Server {
        address: free,
        ..closed
    };
    let error = push(&nobody, None).unwrap_err();
    assert!(matches!(error, ImageError::Registry { .. }), "{error}");
}

#[test]
fn secrets_and_files_go_to_no_other_host_by_http() {
    for (wanted, text) in [
        (
            RegistryAuth::TokenFromElsewhere,
            "no place for tokens that may be trusted",
        ),
        (
            RegistryAuth::UploadElsewhere,
            "answers no place for an upload",
        ),
    ] {
        let server = Server::start(wanted);
        let error = push(&server, user()).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}
