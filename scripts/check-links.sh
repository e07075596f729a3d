#!/usr/bin/env bash
# Checks the Markdown files of the repository: every relative link leads to a file, every anchor to a heading, and every path of the
# repository in `code` exists. Links to other hosts are not followed. Needs git and awk alone.
#
#   scripts/check-links.sh [FILE...]     all tracked Markdown files if none is named
set -euo pipefail
cd "$(dirname "$0")/.."

if (($# == 0)); then
    mapfile -t files < <(git ls-files --cached --others --exclude-standard '*.md')
else
    files=("$@")
fi

# Prints the anchors of a page, as code hosts make them: lower case, no punctuation, hyphens for spaces, a number behind a repeated one.
anchors() { # FILE
    awk '
        /^[ \t]*(```|~~~)/ { fenced = !fenced; next }
        fenced || !/^#+ / { next }
        {
            text = $0
            sub(/^#+ +/, "", text)
            gsub(/\]\([^)]*\)/, "", text)
            text = tolower(text)
            gsub(/[^a-z0-9 _-]/, "", text)
            gsub(/ /, "-", text)
            print text (seen[text]++ ? "-" seen[text] - 1 : "")
        }' "$1"
}

# Prints `LINE KIND TARGET` for each link and each path in a code span.
targets() { # FILE
    awk '
        /^[ \t]*(```|~~~)/ { fenced = !fenced; next }
        fenced { next }
        {
            text = $0
            plain = ""
            # Code spans first: what looks like a link in them is none.
            while (match(text, /`[^`]*`/)) {
                span = substr(text, RSTART + 1, RLENGTH - 2)
                plain = plain substr(text, 1, RSTART - 1) "x"
                text = substr(text, RSTART + RLENGTH)
                if (span !~ /NAME/ && span ~ /^(bench|crates|deploy|docs|images|kits|scripts|shim|test|fuzz)\/[A-Za-z0-9._\/-]*$/)
                    print NR, "path", span
            }
            text = plain text
            while (match(text, /\]\([^) ]+\)/)) {
                print NR, "link", substr(text, RSTART + 2, RLENGTH - 3)
                text = substr(text, RSTART + RLENGTH)
            }
            if (match($0, /^\[[^]]+\]: +[^ ]+/)) {
                link = substr($0, RSTART, RLENGTH)
                sub(/^\[[^]]+\]: +/, "", link)
                print NR, "link", link
            }
        }' "$1"
}

declare -A known=()
problems=0 links=0 paths=0
report() {
    echo "$1" >&2
    problems=$((problems + 1))
}

for file in "${files[@]}"; do
    directory=$(dirname "$file")
    while read -r line kind target; do
        if [[ $kind == path ]]; then
            paths=$((paths + 1))
            # Of the repository or beside the page; or made by a build.
            [[ -e $target || -e $directory/$target ]] || git check-ignore -q "$target" ||
                report "$file:$line: there is no \`$target\`"
            continue
        fi
        [[ $target =~ ^[a-z]+: ]] && continue
        links=$((links + 1))
        path=${target%%#*}
        page=$file
        if [[ -n $path ]]; then
            page=$(realpath -m --relative-to=. "$directory/$path")
        fi
        if [[ ! -e $page ]]; then
            report "$file:$line: the link \`$target\` leads to no file"
            continue
        fi
        [[ $target == *"#"* && $page == *.md ]] || continue
        [[ -v known[$page] ]] || known[$page]=$'\n'$(anchors "$page")$'\n'
        [[ ${known[$page]} == *$'\n'"${target#*#}"$'\n'* ]] ||
            report "$file:$line: \`$page\` has no heading for \`#${target#*#}\`"
    done < <(targets "$file")
done

echo "${#files[@]} pages, $links links, $paths paths: $problems problems"
((problems == 0))
