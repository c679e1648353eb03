//! Style as a test: the rules that the compiler and clippy cannot know, above all what must be absent
//! from which folder. Each finding names the file, the line, the rule and the reason.
//!
//! Relies on a small reader of Rust that blanks comments and literals, and on counting braces. A rule is
//! about names in code: prose may name anything, and tests may use what the code beside them may not.

use std::fmt::Write;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Names that the code under some paths does without.
struct Absence {
    /// Files or folders; a folder ends with a slash. Those that do not exist (yet) are no finding.
    under: &'static [&'static str],
    but_in: &'static [&'static str],
    names: &'static [&'static str],
    reason: &'static str,
}

const ABSENCES: &[Absence] = &[
    Absence {
        under: &["src/shard/", "src/forward/", "src/rtp/", "src/io/", "src/sdp/"],
        but_in: &[],
        names: &["str0m", "dimpl", "tokio", "axum"],
        reason: "a packet never waits for the control plane; its libraries stay out of the data plane",
    },
    Absence {
        under: &["src/forward/", "src/rtp/"],
        but_in: &[],
        names: &["net::", "thread::", "Instant", "SystemTime", "socket2", "libc"],
        reason: "pure code takes bytes and `now` as arguments, so that a simulation can repeat it exactly",
    },
    Absence {
        under: &["src/rtp/"],
        but_in: &[],
        names: &["Vec", "Box", "String", "Rc", "Arc", "HashMap", "vec!", "format!"],
        reason: "this code runs per packet, and nothing per packet allocates",
    },
    Absence {
        under: &["src/rtp/"],
        but_in: &[],
        names: &["forward::", "io::", "shard::", "control::", "api::", "sdp::"],
        reason: "dependencies point down, and nothing is below rtp",
    },
    Absence {
        under: &["src/forward/"],
        but_in: &[],
        names: &["io::", "shard::", "control::", "api::", "sdp::", "ring::", "table::"],
        reason: "dependencies point down, and below forward there is rtp only",
    },
    Absence {
        under: &["src/io/"],
        but_in: &[],
        names: &["rtp::", "forward::", "shard::", "control::", "api::"],
        reason: "a backend moves datagrams; what is in them is not its business",
    },
    Absence {
        under: &["src/shard/"],
        but_in: &[],
        names: &["control::", "api::", "sdp::"],
        reason: "dependencies point down: control knows shards, never the reverse",
    },
    Absence {
        under: &["src/api/"],
        but_in: &[],
        names: &["shard::", "forward::", "rtp::", "io::udp", "ring::"],
        reason: "the one door into the media planes is `control::request`",
    },
    Absence {
        under: &["src/"],
        but_in: &["src/main.rs", "src/config.rs", "src/bench/"],
        names: &["bench::"],
        reason: "the load generator uses the server's parts, never the reverse",
    },
    Absence {
        under: &["src/bench/"],
        but_in: &[],
        names: &["shard::", "forward::", "api::", "server::"],
        reason: "it meets a server as clients do: over HTTP and UDP, whoever wrote it",
    },
    Absence {
        under: &["src/"],
        but_in: &["src/control/transport.rs", "src/control/keys.rs", "src/bench/"],
        names: &["str0m"],
        reason: "str0m changes between minor versions; two files meet it (and the load generator's clients)",
    },
    Absence {
        under: &["src/"],
        but_in: &["src/time.rs"],
        names: &["Instant::now", "SystemTime::now"],
        reason: "time comes from outside: take `now` as an argument",
    },
    Absence {
        under: &["src/"],
        but_in: &["src/main.rs"],
        names: &["process::exit", "process::abort"],
        reason: "only main decides that the process ends",
    },
    Absence {
        under: &["src/"],
        but_in: &["src/main.rs", "src/bench/"],
        names: &["println!", "print!", "eprintln!", "eprint!", "dbg!"],
        reason: "a library logs with `tracing`; standard output belongs to main",
    },
    Absence {
        under: &["src/"],
        but_in: &[
            "src/io/udp.rs",
            "src/io/uring.rs",
            "src/io/xdp/",
            "src/bench/kernel.rs",
            "src/ring.rs",
            "src/table.rs",
            "src/control/wake.rs",
        ],
        names: &["unsafe"],
        reason: "memory shared with the kernel or between threads lives in these files and nowhere else",
    },
];

/// A name that an [`Absence`] forbids, in one file, for a reason.
const EXCEPTIONS: &[(&str, &str, &str)] =
    &[("src/rtp/srtp/mod.rs", "Box", "allocates when a session gets its keys, not when it gets a packet")];

const FILE_LINES_MAX: usize = 900;
const FUNCTION_LINES_MAX: usize = 70;

/// Files whose long functions are tables: one arm per variant, nothing to follow.
const TABLES: &[&str] = &["src/sdp/error.rs"];

/// In two parts each, so that this file does not find itself.
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Folders that hold what others wrote: builds, packages, recordings.
const FOREIGN: &[&str] =
    &["target", "node_modules", "fixtures", "snapshots", "vendor", "corpus", "__pycache__"];

const TEXT: &[&str] = &["rs", "md", "toml", "py", "js", "mjs", "ts", "html", "css", "sh", "service", "conf"];

struct Finding {
    path: String,
    line: usize,
    rule: String,
    reason: &'static str,
}

/// A Rust file: its text, and the same with comments and literals blanked. Both have the same lines.
struct Source {
    path: String,
    text: String,
    code: String,
    /// Byte ranges of `code` that are compiled for tests only.
    tests: Vec<Range<usize>>,
}

impl Source {
    fn new(path: String, text: String) -> Self {
        let code = blank(&text);
        let tests = test_items(&code);
        Self { path, text, code, tests }
    }

    fn is_test_file(&self) -> bool {
        let path = Path::new(&self.path);
        path.file_stem().is_some_and(|stem| stem == "tests" || stem == "test_support")
            || path.components().any(|part| part.as_os_str() == "tests")
    }

    fn is_test(&self, offset: usize) -> bool {
        self.is_test_file() || self.tests.iter().any(|range| range.contains(&offset))
    }

    fn line_of(&self, offset: usize) -> usize {
        self.code.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn finding(&self, offset: usize, rule: String, reason: &'static str) -> Finding {
        Finding { path: self.path.clone(), line: self.line_of(offset), rule, reason }
    }
}

#[test]
fn what_must_be_absent_from_a_folder_is_absent() {
    report(rust_sources("src").iter().flat_map(|file| ABSENCES.iter().flat_map(|rule| breaches(file, rule))));
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let silent = |file: &Source| !file.text.starts_with("//!");
    report(rust_sources("src").iter().filter(|file| silent(file)).map(|file| {
        let reason = "the first line of a file says what it is for";
        file.finding(0, "opens without `//!`".into(), reason)
    }));
}

#[test]
fn files_and_functions_stay_readable() {
    let sources: Vec<_> = ["src", "tests", "benches"].into_iter().flat_map(rust_sources).collect();
    let long_files = sources.iter().filter(|file| file.text.lines().count() > FILE_LINES_MAX).map(|file| {
        let rule = format!("{} lines, at most {FILE_LINES_MAX}", file.text.lines().count());
        file.finding(0, rule, "a file is one noun; split it where a second one begins")
    });
    report(long_files.chain(sources.iter().flat_map(long_functions)));
}

#[test]
fn text_is_finished_and_has_no_invisible_ends() {
    let mut findings = Vec::new();
    for (path, text) in texts(Path::new(""), TEXT) {
        for (number, line) in text.lines().enumerate() {
            let mut add = |rule: String, reason| {
                findings.push(Finding { path: path.clone(), line: number + 1, rule, reason });
            };
            if line.ends_with([' ', '\t', '\r']) {
                add("space at the end of the line".into(), "it makes diffs that change nothing");
            }
            if let Some(mark) = UNFINISHED.iter().find(|mark| find_name(line, mark, 0).is_some()) {
                add(format!("`{mark}`"), "what is missing belongs in the issue tracker, not in the code");
            }
        }
    }
    report(findings);
}

/// Fails with every finding, one a line.
fn report(findings: impl IntoIterator<Item = Finding>) {
    let mut lines = String::new();
    for Finding { path, line, rule, reason } in findings {
        writeln!(lines, "{path}:{line}: {rule}: {reason}").expect("a String takes any text");
    }
    assert!(lines.is_empty(), "\n{lines}");
}

fn breaches(file: &Source, rule: &'static Absence) -> Vec<Finding> {
    let in_any = |paths: &[&str]| {
        paths.iter().any(|path| file.path == *path || (path.ends_with('/') && file.path.starts_with(path)))
    };
    if !in_any(rule.under) || in_any(rule.but_in) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for name in rule.names {
        if EXCEPTIONS.iter().any(|(path, excepted, _)| *path == file.path && excepted == name) {
            continue;
        }
        let mut from = 0;
        while let Some(at) = find_name(&file.code, name, from) {
            from = at + name.len();
            if !file.is_test(at) {
                findings.push(file.finding(at, format!("names `{name}`"), rule.reason));
            }
        }
    }
    findings
}

fn long_functions(file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut from = 0;
    while let Some(at) = find_name(&file.code, "fn", from) {
        from = at + 2;
        let end = item_end(&file.code, at);
        let lines = file.line_of(end) - file.line_of(at) + 1;
        if lines > FUNCTION_LINES_MAX && !TABLES.contains(&file.path.as_str()) {
            let rule = format!("a function of {lines} lines, at most {FUNCTION_LINES_MAX}");
            findings.push(file.finding(at, rule, "a function fits a screen"));
        }
    }
    findings
}

/// The next place at or after `from` where `name` stands by itself, not as part of a longer name.
fn find_name(code: &str, name: &str, from: usize) -> Option<usize> {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    code[from..].match_indices(name).map(|(at, _)| from + at).find(|at| {
        let before = code[..*at].chars().next_back();
        let after = code[at + name.len()..].chars().next();
        let open_ended = !name.ends_with(part_of_name);
        !before.is_some_and(part_of_name) && (open_ended || !after.is_some_and(part_of_name))
    })
}

/// The items under `#[cfg(test)]`, with their attribute.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let attributes = code.match_indices("#[cfg(test)]");
    attributes.map(|(at, attribute)| at..item_end(code, at + attribute.len())).collect()
}

/// Where the item that begins at `start` ends: at its closing brace, or at a semicolon before any brace.
fn item_end(code: &str, start: usize) -> usize {
    let (mut braces, mut brackets) = (0_usize, 0_usize);
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets = brackets.saturating_sub(1),
            b'{' => braces += 1,
            b'}' if braces <= 1 => return at,
            b'}' => braces -= 1,
            b';' if braces == 0 && brackets == 0 => return at,
            _ => {}
        }
    }
    code.len()
}

/// `text` with every byte of a comment or a literal replaced by a space; line ends stay.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let hidden = hidden_len(rest, code.chars().next_back());
        let (taken, after) = rest.split_at(hidden.unwrap_or(first.len_utf8()));
        match hidden {
            Some(_) => code.extend(taken.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' })),
            None => code.push_str(taken),
        }
        rest = after;
    }
    code
}

/// The length of the comment or literal that `rest` begins with, if it does. `before` is the character
/// before it: an `r` or a `b` inside a longer name begins no literal.
fn hidden_len(rest: &str, before: Option<char>) -> Option<usize> {
    let in_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let prefix =
        if in_name { "" } else { rest.split(|c| !matches!(c, 'b' | 'c' | 'r')).next().unwrap_or("") };
    let bare = &rest[prefix.len()..];
    if rest.starts_with("//") {
        Some(rest.find('\n').unwrap_or(rest.len()))
    } else if rest.starts_with("/*") {
        Some(block_comment_len(rest))
    } else if prefix.ends_with('r')
        && (bare.starts_with('"') || bare.starts_with("#\"") || bare.starts_with("##"))
    {
        let hashes = bare.len() - bare.trim_start_matches('#').len();
        let close = format!("\"{}", "#".repeat(hashes));
        let open = prefix.len() + hashes + 1;
        Some(rest[open..].find(&close).map_or(rest.len(), |at| open + at + close.len()))
    } else if prefix.len() <= 1 && bare.starts_with('"') {
        Some(prefix.len() + quoted_len(bare, '"'))
    } else if prefix.len() <= 1 && bare.starts_with('\'') && is_char_literal(bare) {
        Some(prefix.len() + quoted_len(bare, '\''))
    } else {
        None
    }
}

/// Comments nest (Rust reference, "Comments").
fn block_comment_len(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        let step = rest[at..].chars().next().map_or(1, char::len_utf8);
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += step;
        }
    }
    rest.len()
}

fn quoted_len(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A lifetime has no closing quote after its first character.
fn is_char_literal(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    chars.next() == Some('\\') || chars.next() == Some('\'')
}

fn rust_sources(folder: &str) -> Vec<Source> {
    texts(Path::new(folder), &["rs"]).into_iter().map(|(path, text)| Source::new(path, text)).collect()
}

/// The files under `folder` of the project that end so, each with its path and text, in order.
fn texts(folder: &Path, extensions: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join(folder), extensions, &mut files);
    files.sort();
    let relative = |path: &PathBuf| path.strip_prefix(root).expect("found under it").display().to_string();
    files.iter().filter_map(|path| Some((relative(path), fs::read_to_string(path).ok()?))).collect()
}

fn collect(folder: &Path, extensions: &[&str], files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let foreign = FOREIGN.contains(&name.as_str()) || name.starts_with('.');
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if !foreign {
                collect(&path, extensions, files);
            }
        } else if path.extension().is_some_and(|end| extensions.iter().any(|wanted| end == *wanted)) {
            files.push(path);
        }
    }
}

#[test]
fn the_reader_sees_names_in_code_only() {
    let code = blank(
        "let a = \"tokio \\\" {\"; // tokio\nlet b = r#\"tokio\"#; /* tokio /* { */ */ 'x': &'a str; b'{'",
    );
    assert!(!code.contains("tokio") && !code.contains('{'), "{code}");
    assert!(code.contains("let b = ") && code.contains("&'a str"), "{code}");
    assert_eq!(find_name("srtp::a rtp::b", "rtp::", 0), Some(8));
    assert_eq!(find_name("Vector VecDeque Vec<u8>", "Vec", 0), Some(16));
}

#[test]
fn the_reader_knows_what_is_compiled_for_tests_only() {
    let text = "fn a() { Vec }\n#[cfg(test)]\nmod tests {\n  fn b() { Vec }\n}\nfn c() { Vec }\n";
    let file = Source::new("src/rtp/x.rs".into(), text.into());
    let lines: Vec<_> = breaches(&file, &ABSENCES[2]).iter().map(|finding| finding.line).collect();
    assert_eq!(lines, [1, 6]);
    let tests = Source::new("src/rtp/tests.rs".into(), text.into());
    assert!(breaches(&tests, &ABSENCES[2]).is_empty());
}

#[test]
fn the_reader_measures_a_function_by_its_braces() {
    let body = "    x;\n".repeat(FUNCTION_LINES_MAX);
    let text = format!("fn short(a: [u8; 3]) -> u8 {{ 1 }}\nfn long() {{\n{body}}}\n");
    let found = long_functions(&Source::new("src/x.rs".into(), text));
    assert_eq!(found.iter().map(|finding| finding.line).collect::<Vec<_>>(), [2]);
}
