//! The attribute `#[worker]`, which `wasm-workers-rs` exports.

use proc_macro::{Delimiter, Group, Ident, Literal, Punct, Spacing, Span, TokenStream, TokenTree};

/// Makes a function the worker's handler: writes the `main` that reads the request, calls it, and
/// writes its response.
///
/// `#[worker(params)]` passes the route's parameters, `#[worker(cache)]` the key/value namespace,
/// `#[worker(cache, params)]` both, the parameters first.
#[proc_macro_attribute]
pub fn worker(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let expanded = arguments(attribute).and_then(|wanted| {
        let name = function(item.clone())?;
        Ok(main_of(&name, &wanted))
    });
    // The function stays even if the attribute is wrong: what is wrong within it is then reported
    // as well.
    let main = expanded.unwrap_or_else(|error| error.into_tokens());
    let mut tokens = item;
    tokens.extend(main);
    tokens
}

/// What the handler is to be given besides the request.
#[derive(Default)]
struct HandlerArguments {
    cache: bool,
    params: bool,
}

/// A mistake of the user's, at the place where it is.
struct Mistake(Span, String);

impl Mistake {
    fn into_tokens(self) -> TokenStream {
        let Self(span, message) = self;
        let at = |tree: TokenTree| {
            let mut tree = tree;
            tree.set_span(span);
            tree
        };
        let text = TokenTree::from(Literal::string(&message));
        let argument = Group::new(Delimiter::Parenthesis, at(text).into());
        [
            at(Ident::new("compile_error", span).into()),
            at(Punct::new('!', Spacing::Alone).into()),
            at(argument.into()),
            at(Punct::new(';', Spacing::Alone).into()),
        ]
        .into_iter()
        .collect()
    }
}

fn arguments(attribute: TokenStream) -> Result<HandlerArguments, Mistake> {
    let mut wanted = HandlerArguments::default();
    let mut name_is_next = true;
    for tree in attribute {
        match &tree {
            TokenTree::Ident(name) if name_is_next => match name.to_string().as_str() {
                "cache" => wanted.cache = true,
                "params" => wanted.params = true,
                other => {
                    let message = format!("`{other}`: #[worker] knows `cache` and `params`");
                    return Err(Mistake(tree.span(), message));
                }
            },
            TokenTree::Punct(comma) if comma.as_char() == ',' && !name_is_next => {}
            _ => {
                let message = "expected #[worker], #[worker(cache)], #[worker(params)] or \
                    #[worker(cache, params)]";
                return Err(Mistake(tree.span(), message.to_owned()));
            }
        }
        name_is_next = !name_is_next;
    }
    Ok(wanted)
}

/// The name of the function that the attribute stands at.
fn function(item: TokenStream) -> Result<Ident, Mistake> {
    let mut trees = item.into_iter();
    let mut first = None;
    while let Some(tree) = trees.next() {
        let span = *first.get_or_insert(tree.span());
        let TokenTree::Ident(word) = &tree else {
            continue;
        };
        match word.to_string().as_str() {
            "fn" => match trees.next() {
                Some(TokenTree::Ident(name)) if name.to_string() == "main" => {
                    let message =
                        "a worker's function has another name than `main`, which #[worker] writes";
                    return Err(Mistake(name.span(), message.to_owned()));
                }
                Some(TokenTree::Ident(name)) => return Ok(name),
                _ => return Err(Mistake(span, "#[worker] stands at a function".to_owned())),
            },
            "async" => {
                let message = "a worker's function is not `async`: it runs alone, to its end";
                return Err(Mistake(tree.span(), message.to_owned()));
            }
            "pub" | "const" | "unsafe" | "extern" | "crate" => {}
            _ => return Err(Mistake(span, "#[worker] stands at a function".to_owned())),
        }
    }
    let span = first.unwrap_or_else(Span::call_site);
    Err(Mistake(span, "#[worker] stands at a function".to_owned()))
}

fn main_of(name: &Ident, wanted: &HandlerArguments) -> TokenStream {
    let mut arguments = String::from("request");
    if wanted.params {
        arguments.push_str(", params");
    }
    if wanted.cache {
        arguments.push_str(", cache");
    }
    let source = format!(
        "fn main() {{ ::wasm_workers_rs::run({}, |request, params, cache| {{ let _ = (&params, \
         &cache); {name}({arguments}) }}) }}",
        wanted.cache
    );
    // Names are the user's own or plain words: this is always Rust.
    source.parse().unwrap_or_default()
}
