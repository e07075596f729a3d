//! Files become routes.

use super::*;

#[test]
fn paths_are_routes() {
    let dir = directory(&[
        ("index.js", ""),
        ("about.wasm", ""),
        ("api/index.wasm", ""),
        ("api/v2/ping.wasm", ""),
        ("api/[id].js", ""),
        ("api/[id]/edit.js", ""),
        ("other/[...slug].js", ""),
        ("_libs/hidden.js", ""),
        (".wws/runtimes/hidden.js", ""),
        ("node_modules/hidden.js", ""),
        ("public/index.html", ""),
        ("public/about.html", ""),
        ("public/docs/index.html", ""),
        ("public/api/logo.svg", ""),
        ("public/404.html", ""),
        ("public/worker.js", ""),
    ]);
    let project = open(&dir).unwrap();
    for (path, expected) in [
        ("/", "index.js"),
        ("", "index.js"),
        ("/about", "about.wasm"),
        ("/about/", "about.wasm"),
        ("/about.html", "public/about.html"),
        ("/api", "api/index.wasm"),
        ("/api/v2/ping", "api/v2/ping.wasm"),
        ("/api/7", "api/[id].js id=7"),
        ("/api/7/edit", "api/[id]/edit.js id=7"),
        ("/api/logo.svg", "public/api/logo.svg"),
        ("/other/a/b%20c", "other/[...slug].js slug=a/b c"),
        ("/other", "-"),
        ("/docs", "at /docs/"),
        ("/docs/", "public/docs/index.html"),
        ("/docs/index.html/", "at /docs/index.html"),
        ("/api/logo.svg/", "at /api/logo.svg"),
        ("/docs/index.html", "public/docs/index.html"),
        ("/worker.js", "public/worker.js"),
        ("/hidden", "-"),
        ("/_libs/hidden", "-"),
        ("/nothing", "-"),
    ] {
        assert_eq!(found(&project, path), expected, "{path}");
    }
    assert_eq!(
        project.not_found().unwrap().path,
        Path::new("public/404.html")
    );
}

#[test]
fn a_prefix_goes_before_workers_and_assets_and_globs_leave_out() {
    let dir = directory(&[
        ("index.js", ""),
        ("a.js", ""),
        ("draft/b.js", ""),
        ("c.test.js", ""),
        ("public/logo.svg", ""),
        ("public/secret/key.txt", ""),
    ]);
    let load_options = LoadOptions {
        // A backslash as Wasm Workers Server 1.x takes it.
        prefix: Some("v1\\api/".into()),
        ignore: vec![
            "draft/**".into(),
            "**/*.test.js".into(),
            "public/secret".into(),
        ],
        ..options()
    };
    let project = load(dir.path(), &load_options).unwrap();
    for (path, expected) in [
        ("/v1/api", "index.js"),
        ("/v1/api/a", "a.js"),
        ("/v1/api/logo.svg", "public/logo.svg"),
        ("/v1/api/draft/b", "-"),
        ("/v1/api/c.test", "-"),
        ("/v1/api/secret/key.txt", "-"),
        ("/a", "-"),
        ("/", "-"),
    ] {
        assert_eq!(found(&project, path), expected, "{path}");
    }
    assert_eq!(project.workers()[0].route, "/v1/api/a");
}

#[test]
fn catch_alls_may_be_directories_with_an_index() {
    let dir = directory(&[
        ("[...app]/index.js", ""),
        ("api/[...rest]/index.js", ""),
        ("index/about.js", ""),
    ]);
    let project = open(&dir).unwrap();
    for (path, expected) in [
        ("/", "[...app]/index.js app="),
        ("/a/b", "[...app]/index.js app=a/b"),
        ("/api", "[...app]/index.js app=api"),
        ("/api/x/y", "api/[...rest]/index.js rest=x/y"),
        ("/about", "index/about.js"),
    ] {
        assert_eq!(found(&project, path), expected, "{path}");
    }
}

#[test]
fn an_asset_has_one_path_for_its_page() {
    let dir = directory(&[
        ("public/index.html", ""),
        ("public/help.html", ""),
        ("public/docs/index.html", ""),
        ("public/\u{fc}ber uns/index.html", ""),
        ("[id].js", ""),
    ]);
    let load_options = LoadOptions {
        prefix: Some("\\v1".into()),
        ..options()
    };
    let (plain, prefixed) = (
        open(&dir).unwrap(),
        load(dir.path(), &load_options).unwrap(),
    );
    for (path, expected) in [
        ("", "public/index.html"),
        ("/", "public/index.html"),
        ("/index.html", "public/index.html"),
        ("/help", "public/help.html"),
        ("/help.html", "public/help.html"),
        ("/help/", "at /help"),
        ("/help.html/", "at /help.html"),
        ("/docs", "at /docs/"),
        ("//docs", "at /docs/"),
        ("/docs/", "public/docs/index.html"),
        ("/%C3%BCber%20uns", "at /%C3%BCber%20uns/"),
        ("/7", "[id].js id=7"),
        ("/7/", "[id].js id=7"),
    ] {
        assert_eq!(found(&plain, path), expected, "{path}");
    }
    for (path, expected) in [
        ("/v1", "at /v1/"),
        ("/v1/", "public/index.html"),
        ("/v1/docs", "at /v1/docs/"),
        ("/v1/7", "[id].js id=7"),
        ("/docs", "-"),
    ] {
        assert_eq!(found(&prefixed, path), expected, "{path}");
    }
}

#[test]
fn paths_without_an_asset_reach_a_route_with_parameters() {
    let dir = directory(&[
        ("[id].js", ""),
        ("public/7.html", ""),
        ("public/a/b.txt", ""),
    ]);
    let project = open(&dir).unwrap();
    assert_eq!(found(&project, "/7"), "public/7.html");
    assert!(matches!(
        project.find_for_change("/7"),
        RouteMatch::Worker { params, .. } if params == [("id", "7".to_owned())]
    ));
    let asset = project.find_for_change("/a/b.txt");
    assert!(matches!(asset, RouteMatch::Asset(_)));
    assert!(matches!(
        project.find_for_change("/x/y"),
        RouteMatch::NotFound
    ));
}

/// The bound is wide, a linear search would be a thousand times slower; `make bench` measures the
/// ratio.
#[test]
fn lookup_time_does_not_depend_on_the_number_of_routes() {
    let time = |count: usize| {
        let dir = TempDir::new().unwrap();
        for index in 0..count {
            write(dir.path(), &format!("r{index}/[id].js"), "");
        }
        let project = open(&dir).unwrap();
        let path = format!("/r{}/7", count - 1);
        // The quickest of several: something else may have the CPU meanwhile.
        let rounds = (0..20).map(|_| {
            let started = Instant::now();
            for _ in 0..500 {
                assert!(matches!(project.find(&path), RouteMatch::Worker { .. }));
            }
            started.elapsed()
        });
        rounds.min().unwrap()
    };
    let (few, many) = (time(10), time(5_000));
    assert!(
        many < few * 50,
        "{few:?} with 10 routes, {many:?} with 5000"
    );
}
