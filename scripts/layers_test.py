#!/usr/bin/env python3
"""What scripts/layers.py finds and what it lets pass, on small workspaces with and without a violation."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
import layers  # noqa: E402

MANIFEST = '[package]\nname = "{}"\n\n[dependencies]\n{}\n'


def problems(order, files):
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        base = {
            "Cargo.toml": '[workspace]\nmembers = ["crates/*"]\n',
            "crates/app/Cargo.toml": MANIFEST.format("app", "base.workspace = true\nserde.workspace = true"),
            "crates/base/Cargo.toml": MANIFEST.format("base", ""),
            "crates/app/src/lib.rs": "",
            layers.LAYERS: order,
        }
        for name, text in (base | files).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return layers.check(root)


ROOMS = "crates/app: top > middle > bottom\n"


def rooms(**texts):
    empty = {room: "" for room in ("top", "middle", "bottom")}
    return {f"crates/app/src/{name.replace('__', '/')}.rs": text for name, text in (empty | texts).items()}


class Rooms(unittest.TestCase):
    def fails(self, files, *places, order=ROOMS):
        found = problems(order, files)
        self.assertEqual([text.split(": ")[0] for text in found], list(places), found)
        return found

    def test_reports_place_and_remedy_of_an_upward_import(self):
        found = self.fails(rooms(bottom="\nuse crate::top::Thing;\n"), "crates/app/src/bottom.rs:2")
        self.assertIn("`bottom` imports `top::Thing`", found[0])
        self.assertIn("`top` is above `bottom`: move what both need into `bottom`", found[0])

    def test_reports_a_circle_of_files_within_a_room(self):
        files = rooms(
            top__a="use crate::top::b::{B, C};\n",
            top__b="use crate::top::c::D;\n",
            top__c="use super::a;\n#[cfg(test)]\nmod tests { use crate::top::d::E; }\n",
            top__d="use crate::top::c::F;\n",
        )
        found = self.fails(files, "crates/app")
        self.assertIn("top/a.rs -> top/b.rs (B, C); top/b.rs -> top/c.rs (D); top/c.rs -> top/a.rs (a)", found[0])

    def test_follows_what_modules_hand_on_for_circles(self):
        files = rooms(
            top="pub use crate::top::a::A;\nuse crate::top::b::B;\n",
            top__a="",
            top__b="use crate::top::A;\n",
        )
        self.fails(files)

    def test_allows_downward_imports(self):
        self.fails(rooms(top="use crate::{middle::a, bottom::{b, c as d}};\nuse crate::bottom;", middle="use crate::bottom::*;"))

    def test_follows_groups_expressions_and_super(self):
        self.fails(
            rooms(
                bottom="use crate::{\n    bottom::x,\n    middle::{\n        y,\n    },\n};\nfn f() { crate::top::g(super::middle::z) }",
                middle__part="use super::super::top;\nuse super::other;",
            ),
            "crates/app/src/bottom.rs:4",
            "crates/app/src/bottom.rs:7",
            "crates/app/src/bottom.rs:7",
            "crates/app/src/middle/part.rs:1",
        )

    def test_follows_what_the_root_hands_on(self):
        files = rooms(bottom="use crate::Thing;") | {"crates/app/src/lib.rs": "mod top;\npub use top::{Other, Thing};"}
        self.fails(files, "crates/app/src/bottom.rs:1")

    def test_inline_modules_count_as_their_file(self):
        self.fails(rooms(bottom="mod inner {\n use super::x;\n use super::super::top::y;\n}"), "crates/app/src/bottom.rs:3")

    def test_skips_tests_comments_and_text(self):
        self.fails(
            rooms(
                bottom="// use crate::top::a;\n/* crate::top::b /* */ crate::top */\nconst A: &str = \"crate::top::c\";\n"
                "const B: &str = r#\"\" crate::top::d\"#; const C: char = '\"';\nfn f<'a>(x: &'a str) -> impl Sized + use<'a> { x }\n"
                "#[cfg(test)]\nuse crate::top::e;\n#[cfg(test)]\nmod checks;\n"
                "#[cfg(test)]\nmod tests {\n use crate::top::g;\n fn h() { crate::top::i() }\n}",
                bottom__checks="use crate::top::e;",
            )
        )

    def test_code_after_a_test_module_counts(self):
        self.fails(rooms(bottom="#[cfg(test)]\nmod tests { }\nuse crate::top::x;"), "crates/app/src/bottom.rs:3")

    def test_peers_import_neither_one_another(self):
        found = self.fails(
            rooms(bottom="use crate::middle::x;"), "crates/app/src/bottom.rs:1", order="crates/app: top > middle bottom"
        )
        self.assertIn("`middle` is not below `bottom`", found[0])

    def test_lines_of_a_crate_count_together(self):
        self.fails(rooms(top="use crate::bottom::x;"), order="crates/app: top > middle\ncrates/app: middle > bottom")
        self.fails(rooms(), *[layers.LAYERS + ":1"] * 2, order="crates/app: top > middle\ncrates/app: middle > top > bottom")

    def test_names_of_rooms_are_complete_and_exist(self):
        self.fails(rooms(), layers.LAYERS + ":1", layers.LAYERS + ":1", order="crates/app: top > middle > cellar")


class Crates(unittest.TestCase):
    def test_reports_an_upward_dependency(self):
        up = {"crates/base/Cargo.toml": MANIFEST.format("base", 'app = { path = "../app" }')}
        order = "workspace: crates/app > crates/base"
        self.assertEqual(problems(order, {}), [])
        found = problems(order, up)
        self.assertEqual(len(found), 1)
        self.assertTrue(found[0].startswith("crates/base/Cargo.toml:5: crates/base depends on crates/app; "), found)

    def test_crates_on_lines_of_their_own_link_nothing(self):
        found = problems("workspace: crates/app\nworkspace: crates/base", {})
        self.assertTrue(found[0].startswith("crates/app/Cargo.toml:5: crates/app depends on crates/base; "), found)

    def test_dev_dependencies_may_look_up(self):
        files = {"crates/base/Cargo.toml": MANIFEST.format("base", '\n[dev-dependencies]\napp = { path = "../app" }')}
        self.assertEqual(problems("workspace: crates/app > crates/base", files), [])


if __name__ == "__main__":
    unittest.main()
