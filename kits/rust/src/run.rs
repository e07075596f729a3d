//! From standard input through the handler to standard output.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io::{Read, Write};
use std::process::exit;

use http::{Request, Response};

use crate::request::{Body, Input};
use crate::{Cache, Content, response};

/// Room for a request of the usual size, so that reading it takes one call and no copying.
const USUAL_REQUEST: usize = 4096;

/// Parameters of the route.
type Params = HashMap<String, String>;

/// Answers the one request that this process is started for. `#[worker]` writes a `main` that calls
/// this.
///
/// `with_cache` says whether the handler's changes to the store count.
///
/// A handler that fails ends the process with the error on standard error: the client gets status
/// 500 and nothing of the error, the server's log gets its whole text.
pub fn run<B, C, E>(
    with_cache: bool,
    handler: impl FnOnce(Request<B>, &Params, &mut Cache) -> Result<Response<C>, E>,
) where
    B: Body,
    C: Into<Content>,
    E: Debug,
{
    let mut text = Vec::with_capacity(USUAL_REQUEST);
    if let Err(error) = std::io::stdin().lock().read_to_end(&mut text) {
        fail(&error);
    }
    let answered = answer(&text, with_cache, handler);
    let mut stdout = std::io::stdout().lock();
    let written = match answered {
        Ok(text) => stdout.write_all(&text).and_then(|()| stdout.flush()),
        Err(message) => fail_with(&message),
    };
    if let Err(error) = written {
        fail(&error);
    }
}

fn fail(error: &dyn std::error::Error) -> ! {
    fail_with(&error.to_string())
}

fn fail_with(message: &str) -> ! {
    eprintln!("{message}");
    exit(1)
}

/// The whole of it without the process: a request's text in, a response's text out, or why there is
/// none.
fn answer<B, C, E>(
    text: &[u8],
    with_cache: bool,
    handler: impl FnOnce(Request<B>, &Params, &mut Cache) -> Result<Response<C>, E>,
) -> Result<Vec<u8>, String>
where
    B: Body,
    C: Into<Content>,
    E: Debug,
{
    let input = Input::parse(text).map_err(|error| error.to_string())?;
    let (request, params, store) = input.into_parts().map_err(|error| error.to_string())?;
    let mut cache = if with_cache {
        store.to_cache()
    } else {
        Cache::new()
    };
    let response = handler(request, &params, &mut cache).map_err(|error| format!("{error:?}"))?;
    let changed = with_cache && !store.is(&cache);
    response::write(response.map(Into::into), changed.then_some(&cache))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use anyhow::{Context, Result, bail};

    const REQUEST: &[u8] =
        br#"{"url":"/a","method":"GET","kv":{"n":"1"},"params":{"id":"7"},"body":"hi"}"#;

    #[test]
    fn passes_everything_to_the_handler_and_writes_its_changes() {
        let text = answer(REQUEST, true, |request: Request<String>, params, cache| {
            cache.insert("n".to_owned(), "2".to_owned());
            let text = format!("{} {}", request.into_body(), params["id"]);
            anyhow::Ok(Response::new(text))
        });
        assert_eq!(
            text.unwrap(),
            br#"{"data":"hi 7","status":200,"kv":{"n":"2"}}"#
        );
    }

    #[test]
    fn a_store_that_stays_as_it_is_is_not_written() {
        let text = answer(REQUEST, true, |_: Request<String>, _, cache| {
            assert_eq!(cache["n"], "1");
            anyhow::Ok(Response::new(""))
        });
        assert_eq!(text.unwrap(), br#"{"data":"","status":200}"#);
    }

    #[test]
    fn reports_an_error_with_its_causes() {
        let fails =
            |_: Request<Vec<u8>>, _: &HashMap<_, _>, _: &mut Cache| -> Result<Response<String>> {
                let cause = || -> Result<()> { bail!("the cause") };
                cause().context("what failed")?;
                Ok(Response::default())
            };
        let message = answer(REQUEST, false, fails).unwrap_err();
        assert!(message.contains("what failed") && message.contains("the cause"));
    }
}
