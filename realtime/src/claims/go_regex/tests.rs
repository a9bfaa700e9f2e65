//! What expressions mean, case by case as Go has it, and that none can do harm.

use proptest::prelude::*;

use super::*;

fn compile(expression: &str) -> Result<GoRegex, String> {
    GoRegex::compile(expression, &mut Budget::default())
}

fn matches(expression: &str, name: &str) -> bool {
    compile(expression)
        .unwrap_or_else(|problem| panic!("`{expression}` {problem}"))
        .is_match(name)
}

/// R-PERM-4, R-PERM-6: what each of these matches in Go.
#[test]
fn expressions_mean_what_they_mean_in_go() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        (
            r"^lot\.[0-9]+$",
            &["lot.19"],
            &["lot.x", "a.lot.19", "lotx19", "lot.19\n"],
        ),
        ("b", &["b", "abc"], &["", "ac"]),
        ("", &["", "anything"], &[]),
        // ASCII only, on text that is not.
        (r"^\d$", &["7"], &["\u{663}", "x"]),
        (r"^\D$", &["x", "\u{663}", "日"], &["7"]),
        (r"^\w+$", &["aZ_9"], &["ä", "日", "-"]),
        (r"^\W$", &["ä", "日", "-"], &["a"]),
        (
            r"^\s$",
            &["\t", " ", "\r", "\n", "\x0c"],
            &["\x0b", "\u{a0}", "\u{2003}"],
        ),
        (r"^\S$", &["\x0b", "\u{a0}", "x"], &[" "]),
        (r"^[\w.]+$", &["a.b"], &["ä.b"]),
        (r"^[^\w]$", &["ä"], &["a"]),
        (r"^[\D]$", &["\u{663}"], &["7"]),
        (r"^[^\D]$", &["7"], &["\u{663}", "x"]),
        // `é` is no word to Go, so there is a boundary before it.
        (r"caf\b", &["café", "caf"], &["cafe"]),
        (r"caf\B", &["cafe"], &["café", "caf"]),
        // One character, however many bytes; not a line's end.
        ("^.$", &["a", "é", "日", "🎉"], &["", "\n", "ab"]),
        ("(?s)^.$", &["\n"], &[]),
        ("^a.c$", &["aéc"], &["aéec"]),
        ("^[é日]$", &["é", "日"], &["e"]),
        ("^[^a]$", &["é", "\n"], &["a"]),
        ("^[à-ü]$", &["é"], &["e"]),
        // Flags, for the rest of a group or for one of their own.
        ("(?i)^lot$", &["LoT"], &["lo"]),
        ("(?i)^É$", &["é"], &["e"]),
        ("(?i)^k$", &["K", "\u{212a}"], &[]),
        (r"(?i)^\w$", &["k", "\u{212a}", "ſ"], &["ä"]),
        (r"(?i)^\W$", &["ä"], &["k", "\u{212a}", "ſ"]),
        ("^(?i:a)b$", &["Ab", "ab"], &["AB"]),
        ("^(?i)a(?-i)b$", &["Ab"], &["AB"]),
        ("^a(?i)b$|^c$", &["aB", "C"], &["AB"]),
        ("(?m)^b$", &["a\nb\nc"], &["ab"]),
        ("^b$", &["b"], &["a\nb\nc", "b\n"]),
        ("(?ms)^a.b$", &["x\na\nb"], &[]),
        ("(?U)^a+$", &["aa"], &["b"]),
        ("(?ii)a", &["A"], &[]),
        ("(?)a", &["a"], &["b"]),
        // Groups.
        ("^(?P<x>a|b)(?<y>c)$", &["ac", "bc"], &["c"]),
        ("^(?P<x>a)(?P<x>b)$", &["ab"], &["a"]),
        ("^(?:a|b|)$", &["a", "b", ""], &["c"]),
        // Repetitions; lazy ones match as much or little.
        ("^a*b+?c??$", &["b", "aab", "abbc"], &["a", "bcc"]),
        ("^a{2}$", &["aa"], &["a", "aaa"]),
        ("^a{2,}$", &["aa", "aaaa"], &["a"]),
        ("^a{1,2}?$", &["a", "aa"], &["", "aaa"]),
        ("^(ab){0}$", &[""], &["ab"]),
        // A brace that begins no repetition stands for itself.
        ("^a{$", &["a{"], &["a"]),
        ("^a{,2}$", &["a{,2}"], &["", "aa"]),
        ("^a{01}$", &["a{01}"], &["a"]),
        ("^a{1,x}$", &["a{1,x}"], &["a"]),
        ("^{}$", &["{}"], &[""]),
        ("^}]$", &["}]"], &[""]),
        // In a class almost everything stands for itself.
        ("^[a&&b]$", &["a", "&", "b"], &["c"]),
        ("^[a[b]$", &["a", "[", "b"], &["c"]),
        ("^[a~~b]$", &["~"], &["c"]),
        ("^[]a]$", &["]", "a"], &["b"]),
        ("^[^]a]$", &["b"], &["]", "a"]),
        ("^[a-]$", &["a", "-"], &["b"]),
        ("^[-a]$", &["a", "-"], &["b"]),
        ("^[+--]$", &["+", ",", "-"], &["."]),
        (r"^[\]\-\\]$", &["]", "-", "\\"], &["a"]),
        ("^[a b#]$", &["a", " ", "#"], &["c"]),
        ("^[[:alpha:]_]$", &["q", "_"], &["é", "1"]),
        ("^[[:^alpha:]]$", &["é", "1"], &["q"]),
        ("^[[:a]$", &["[", ":", "a"], &["b"]),
        ("^[*.^$]$", &["*", ".", "^", "$"], &["a"]),
        // Escapes.
        (r"^\Qa.b*\E+$", &["a.b*", "a.b**"], &["axb"]),
        (r"^\Qa\d", &["a\\d"], &["a1"]),
        (r"^a\Q\Eb$", &["ab"], &["a"]),
        (r"^\<\>\_\-\ \@\/$", &["<>_- @/"], &["a"]),
        (r"^\101\x41\x{1F389}\07$", &["AA🎉\x07"], &["AA"]),
        (r"^\a\f\t\n\r\v$", &["\x07\x0c\t\n\r\x0b"], &[""]),
        (r"\Aa\z", &["a"], &["a\n", "ba"]),
        (r"^\pL\p{Greek}\PN\p{^Nd}$", &["éαxx"], &["éαx1", "1αxx"]),
        (r"^[\p{Lu}\d]$", &["É", "1"], &["é"]),
        (r"(?i)^\p{Lu}$", &["é", "É"], &["1"]),
        ("^\u{65e5}本$", &["日本"], &["日"]),
        ("^a b # c$", &["a b # c"], &["ab"]),
    ];
    for (expression, good, bad) in cases {
        good.iter().for_each(|name| {
            assert!(
                matches(expression, name),
                "`{expression}` should match {name:?}"
            )
        });
        bad.iter().for_each(|name| {
            assert!(
                !matches(expression, name),
                "`{expression}` should not match {name:?}"
            )
        });
    }
    // A boundary before the brace, which is a literal.
    assert!(matches(r"a\b{start}", "a{start}"));
    assert!(!matches(r"\b{start}", "start"));
}

/// R-PERM-5, R-PERM-7: what Go does not compile is no expression here either.
#[test]
fn what_go_refuses_is_refused() {
    let expressions = [
        "(",
        ")",
        "a)",
        "(a",
        "[",
        "[a",
        "[]",
        "[]a",
        "*",
        "a|*",
        "(*a)",
        "a**",
        "a*+",
        "a???",
        "a{2}{3}",
        "a{2}*",
        "a{1001}",
        "a{1,1001}",
        "a{2,1}",
        "a{99999999999999999999}",
        "[b-a]",
        "[a--b]",
        r"[a-\d]",
        "[[:nope:]]",
        "[[:word]:]",
        r"\",
        r"[\",
        r"\1",
        r"(a)\1",
        r"\8",
        r"\E",
        r"\C",
        r"\Z",
        r"\G",
        r"\K",
        r"\R",
        r"\X",
        r"\h",
        r"\e",
        r"\cA",
        r"\u0041",
        r"\N",
        r"\x",
        r"\x4",
        r"\x{}",
        r"\x{110000}",
        r"\x{41",
        r"\x{4g}",
        r"[\b]",
        r"\é",
        r"\p",
        r"\p{",
        r"\p{}",
        r"\p{Nope}",
        r"\pé",
        r"\p{gc=L}",
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "(?<!a)",
        "(?>a)",
        "(?#a)",
        "(?x)a",
        "(?u)a",
        "(?-u)a",
        "(?R)a",
        "(?i",
        "(?-)a",
        "(?i-)a",
        "(?i--s)a",
        "(?P<>a)",
        "(?P<x y>a)",
        "(?P<x",
        "(?P=x)",
        "(?'x'a)",
        "(?<x.y>a)",
    ];
    for expression in expressions {
        let problem = compile(expression)
            .map(|_| expression)
            .expect_err(expression);
        assert!(
            problem.starts_with("is not a valid regular expression: "),
            "{expression}: {problem}"
        );
        assert!(!problem.contains('\n'), "{expression}: {problem}");
    }
}

/// R-PERM-7
#[test]
fn a_large_expression_is_refused_by_its_length_its_compiled_size_or_its_nesting() {
    assert!(compile(&"a".repeat(MAX_BYTES)).is_ok());
    assert_eq!(
        compile(&"a".repeat(MAX_BYTES + 1)).unwrap_err(),
        "is a regular expression of more than 1024 bytes"
    );
    let large = ["((a{100}){100}){100}", r"(\pL{100}){10}", r"[\pL\d]{1000}"];
    for expression in large {
        assert_eq!(
            compile(expression).unwrap_err(),
            "is too large a regular expression, alone or with the others of the token",
            "{expression}"
        );
    }
    let nested = |levels| compile(&format!("{}a{}", "(".repeat(levels), ")".repeat(levels)));
    assert!(nested(60).is_ok());
    assert!(nested(500).is_err());
    // To look for the other case of a million characters takes milliseconds each time.
    let folded = [
        r"(?i)[b-\x{10ffff}]{0}[b-\x{10ffff}]".to_owned(),
        format!("(?i){}", r"\pL{0}".repeat(20)),
    ];
    for expression in folded {
        assert!(compile(&expression).is_err(), "{expression}");
        assert!(
            compile(&expression.replace("(?i)", "")).is_ok(),
            "{expression}"
        );
    }
    // What everyone writes is far from the bound.
    let usual = [
        r"^\pL+$",
        r"(?i)^[\p{Lu}\p{Ll}]{1,3}$",
        r"(?i)^room\.[a-z0-9-]{1,64}\.(chat|typing)$",
        r"^[^\x00-\x7f]$",
    ];
    for expression in usual {
        assert!(compile(expression).is_ok(), "{expression}");
    }
}

/// R-PERM-7
#[test]
fn the_expressions_of_a_token_share_a_budget() {
    let mut budget = Budget::default();
    let compiled = (0..100)
        .map_while(|_| GoRegex::compile("^a$", &mut budget).ok())
        .count();
    assert_eq!(compiled, 32);
    let mut budget = Budget::default();
    let compiled = (0..100)
        .map_while(|_| GoRegex::compile("^.{100}$", &mut budget).ok())
        .count();
    assert!((2..10).contains(&compiled), "{compiled}");
}

proptest! {
    /// R-PERM-7: no expression panics, whether it compiles or not, nor does matching with it.
    #[test]
    fn no_expression_panics(
        expression in r"([a-c.^$|()*+?{}\[\]\\0-9,:\-&QEdDwWbBpPLxi<>é日 ]|\\\[\[:alpha:\]|\(\?i\)|\\Q){0,24}",
        name in "[a-c0-9é日. ]{0,12}",
    ) {
        if let Ok(regex) = compile(&expression) {
            regex.is_match(&name);
        }
    }

    /// R-PERM-4: a quoted text matches itself, anywhere.
    #[test]
    fn a_quotation_matches_itself(text in r"[^\\]{0,20}", before in ".{0,5}", after in ".{0,5}") {
        let expression = format!(r"\Q{text}\E");
        let name = format!("{before}{text}{after}");
        prop_assert!(matches(&expression, &name));
        let anchored = format!("^{expression}$");
        prop_assert_eq!(matches(&anchored, &format!("x{text}")), false);
    }

    /// R-PERM-4: a class of plain characters matches exactly these.
    #[test]
    fn a_class_matches_its_characters(set in r"[a-f&~\[.*|é日#]{1,8}", name in r"[a-f&~\[.*|é日#]") {
        let expression = format!("^[{set}]$");
        prop_assert_eq!(matches(&expression, &name), set.contains(&name));
    }
}
