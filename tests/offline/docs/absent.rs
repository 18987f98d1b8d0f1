//! What does not exist yet is said on the page where one meets it, once, and goes when the thing
//! comes.

use super::pages;

#[test]
fn what_does_not_exist_yet_is_said_where_the_list_says_and_nowhere_else() {
    let list = std::fs::read_to_string(pages::root().join("tests/docs/absent.txt")).unwrap();
    let entries: Vec<(&str, &str)> = list
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            line.split_once(": ")
                .unwrap_or_else(|| panic!("`PAGE: SENTENCE`, not {line}"))
        })
        .collect();
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let all = pages::all();
    let mut wrong = Vec::new();
    for (path, sentence) in &entries {
        let said: Vec<usize> = all
            .iter()
            .filter(|page| page.path == *path)
            .map(|page| flat(&page.text).matches(sentence).count())
            .collect();
        if said != [1] {
            wrong.push(format!("{path} says {said:?} times: {sentence}"));
        }
    }
    // A sentence of that kind that is on no list.
    for page in all
        .iter()
        .filter(|page| page.path != "CHANGELOG.md" && !page.path.starts_with("tests/"))
    {
        let text = flat(&page.text);
        for sentence in text.split_inclusive(['.', ':', '|']) {
            let says = [
                "published yet",
                "This release does not",
                "This release has no",
            ]
            .iter()
            .any(|words| sentence.contains(words));
            let listed = |(path, known): &(&str, &str)| {
                *path == page.path
                    && (flat(sentence).contains(known)
                        || known.contains(flat(sentence).trim_end_matches('.')))
            };
            if says && !entries.iter().any(listed) {
                wrong.push(format!(
                    "{}: not in tests/docs/absent.txt: {}",
                    page.path,
                    sentence.trim()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
