//! A language that is added in this one file, and answers requests through the server.
//!
//! A worker is a text in which `{url}` stands for the URL of the request.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use wws_engine::{
    Call, GuestSpec, LoadError, LoadErrorKind, Program, ProgramError, RequestBody, Vm,
};
use wws_languages::{BuiltInInterpreter, Language, Languages};
use wws_project::{InterpreterOrigin, LanguageSpec, LoadOptions, beneath::Root};
use wws_server::PrepareOptions;

use crate::common::Site;

/// Keeps the length of the source in memory, where a request finds it.
static INTERPRETER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    ::wat::parse_str(
        r#"(module
            (memory (export "memory") 1)
            (func (export "load") (param i32) (i32.store (i32.const 0) (local.get 0)))
            (func (export "length") (result i32) (i32.load (i32.const 0))))"#,
    )
    .unwrap()
});

struct Toy;

struct ToyProgram(String);

impl Language for Toy {
    fn spec(&self) -> LanguageSpec {
        LanguageSpec {
            name: "toy",
            interpreter: InterpreterOrigin::BuiltIn,
            extensions: &["toy"],
            convertible: &[],
        }
    }

    fn built_in(&self) -> Option<BuiltInInterpreter> {
        Some(BuiltInInterpreter {
            name: "the toy interpreter",
            wasm: &INTERPRETER,
        })
    }

    fn program(
        &self,
        root: &Root,
        file: &Path,
        _: &mut GuestSpec,
    ) -> Result<Arc<dyn Program>, LoadError> {
        let source = root.read(file, 1 << 20).map_err(|error| {
            LoadError::new(LoadErrorKind::Host, "cannot read the source").caused_by(error)
        })?;
        let source = String::from_utf8(source)
            .map_err(|_| LoadError::new(LoadErrorKind::Host, "not UTF-8"))?;
        Ok(Arc::new(ToyProgram(source)))
    }
}

impl Program for ToyProgram {
    fn initialise<'a>(&'a self, vm: &'a mut Vm) -> BoxFuture<'a, Result<(), ProgramError>> {
        Box::pin(async move {
            if self.0.is_empty() {
                return Err(ProgramError::failed("the text is empty"));
            }
            let load = vm.function::<u32, ()>("load")?;
            vm.call(&load, self.0.len() as u32).await?;
            Ok(())
        })
    }

    fn answer<'a>(
        &'a self,
        vm: &'a mut Vm,
        call: Call<RequestBody>,
    ) -> BoxFuture<'a, Result<Option<http::Response<Bytes>>, ProgramError>> {
        Box::pin(async move {
            let length = vm.function::<(), u32>("length")?;
            let length = vm.call(&length, ()).await?;
            let text = self.0.replace("{url}", call.request.uri().path());
            let text = format!("{length} {text}");
            Ok(Some(http::Response::new(Bytes::from(text))))
        })
    }
}

fn options() -> PrepareOptions {
    PrepareOptions {
        languages: Languages::standard().with(Arc::new(Toy)),
        ..PrepareOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_language_is_added_through_the_registry() {
    let site = Site::new();
    site.file("api/[name].toy", "hello {url}")
        .file("page.js", "export default () => new Response('js')");
    let server = site
        .start_prepared(&LoadOptions::default(), &options())
        .await;
    for _ in 0..2 {
        assert_eq!(server.get("/api/a").await.text(), "11 hello /api/a");
    }
    assert_eq!(server.get("/page").await.text(), "js");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_an_added_language_are_reported() {
    let site = Site::new();
    site.file("empty.toy", "");
    let problems = site.problems_with(&options());
    assert_eq!(problems, "empty.toy: the text is empty");
}
