//! Characters that are easily mistaken for others. Word processors, chats and web pages insert them.

/// Such a character in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookalike {
    /// Its position in bytes.
    pub offset: usize,
    /// Its code and name.
    pub name: String,
    /// What to do about it.
    pub advice: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Space,
    Invisible,
    Quote,
    Other,
}

/// Finds the first such character.
pub fn find(text: &str) -> Option<Lookalike> {
    find_where(text, |_| true)
}

/// Finds the first invisible character.
pub fn find_invisible(text: &str) -> Option<Lookalike> {
    find_where(text, |kind| kind == Kind::Invisible)
}

/// Finds a space at either end, or quotes at both.
pub fn find_at_ends(text: &str) -> Option<Lookalike> {
    let first = text.chars().next()?.len_utf8();
    let last = text.chars().next_back()?.len_utf8();
    let (first, last) = (&text[..first], text.len() - last);
    let quote = |text| find_where(text, |kind| kind == Kind::Quote);
    let space = |text| find_where(text, |kind| kind == Kind::Space);
    space(first)
        .or_else(|| Some(Lookalike { offset: last, ..space(&text[last..])? }))
        .or_else(|| quote(&text[last..]).filter(|_| last > 0).and_then(|_| quote(first)))
}

fn find_where(text: &str, is_wanted: impl Fn(Kind) -> bool) -> Option<Lookalike> {
    text.char_indices().find_map(|(offset, c)| {
        let (_, name, advice) = describe(c).filter(|(kind, ..)| is_wanted(*kind))?;
        let name = format!("U+{:04X}, {name}", u32::from(c));
        Some(Lookalike { offset, name, advice })
    })
}

fn describe(c: char) -> Option<(Kind, &'static str, &'static str)> {
    Some(match c {
        '\u{a0}' | '\u{2007}' | '\u{202f}' => (Kind::Space, "a no-break space", "write a space"),
        '\u{2000}'..='\u{200a}' | '\u{205f}' | '\u{3000}' => {
            (Kind::Space, "a typographic space", "write a space")
        }
        '\u{ad}' | '\u{200b}' | '\u{2060}' | '\u{feff}' => {
            (Kind::Invisible, "an invisible character", "remove it")
        }
        '“' | '”' | '„' | '‟' => (Kind::Quote, "a typographic quote", "write \""),
        '‘' | '’' | '‚' | '‛' => (Kind::Quote, "a typographic quote", "write '"),
        '\u{2010}'..='\u{2015}' | '−' => (Kind::Other, "a dash", "write -"),
        '：' => (Kind::Other, "a full-width colon", "write :"),
        '，' => (Kind::Other, "a full-width comma", "write ,"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(found: Option<Lookalike>, expected: Option<(usize, &str, &'static str)>) {
        let found = found.map(|it| (it.offset, it.name, it.advice));
        assert_eq!(found, expected.map(|(offset, name, advice)| (offset, name.to_owned(), advice)));
    }

    #[test]
    fn finds_the_first_character_that_looks_like_another() {
        check(find("é-'\"_: ,ß😀\t"), None);
        check(find("é\u{a0}b“"), Some((2, "U+00A0, a no-break space", "write a space")));
        check(find("0–3"), Some((1, "U+2013, a dash", "write -")));
        check(find("a：b"), Some((1, "U+FF1A, a full-width colon", "write :")));
    }

    #[test]
    fn what_may_be_meant_inside_a_text_is_not_meant_at_its_ends() {
        for text in ["", "a\u{a0}b", "“a” b", "a “b”", "’s", "’", "–", "a’", "a\u{200b}"]
        {
            check(find_at_ends(text), None);
        }
        let space = "U+00A0, a no-break space";
        check(find_at_ends("\u{a0}a"), Some((0, space, "write a space")));
        check(find_at_ends("é\u{a0}"), Some((2, space, "write a space")));
        check(find_at_ends("‘a’"), Some((0, "U+2018, a typographic quote", "write '")));
        let invisible = "U+200B, an invisible character";
        check(find_invisible("a\u{a0}\u{200b}"), Some((3, invisible, "remove it")));
    }
}
