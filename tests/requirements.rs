//! `docs/requirements.md` says of every requirement which tests cover it or what is missing, and those tests exist.

use std::collections::HashMap;
use std::path::Path;

const ROWS: &str = "src/testing/store_contract/rows/";

/// The contract's rows are functions that a macro turns into tests, from a list.
const LIST: &str = "src/testing/store_contract/mod.rs";

struct Requirement<'a> {
    name: &'a str,
    tests: Vec<(&'a str, &'a str)>,
    missing: &'a str,
}

impl<'a> Requirement<'a> {
    /// A line of one of the tables; `None` for any other line.
    fn read(line: &'a str) -> Option<Self> {
        let line = line.strip_prefix("| ")?.strip_suffix('|')?;
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (name, [.., tests, missing]) = (cells[0], &cells[1..]) else {
            panic!("too few cells: {line}");
        };
        if name.is_empty() {
            return None;
        }
        let (mut file, mut found) = (None, Vec::new());
        for quoted in tests.split('`').skip(1).step_by(2) {
            match quoted.ends_with(".rs") {
                true => file = Some(quoted),
                false => found.push((file.expect("a file before its tests"), quoted)),
            }
        }
        Some(Self {
            name,
            tests: found,
            missing,
        })
    }
}

fn has_test(source: &str, test: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let at = lines
        .iter()
        .position(|line| line.contains(&format!("fn {test}(")));
    at.is_some_and(|at| {
        let before = lines[..at].iter().rev();
        let mut before = before.take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        before.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

#[test]
fn every_requirement_has_its_row_and_every_test_named_there_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap_or_default();
    let page = read("docs/requirements.md");
    let rows: Vec<Requirement<'_>> = page.lines().filter_map(Requirement::read).collect();

    let requirements = (1..=45).map(|number| format!("R{number}"));
    let incidents = (1..=14).map(|number| format!("A{number}"));
    let promises = (1..=9).map(|number| number.to_string());
    let expected: Vec<String> = requirements.chain(incidents).chain(promises).collect();
    let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
    assert_eq!(names, expected);

    let list = read(LIST);
    let in_contract: Vec<&str> = list.split_whitespace().collect();
    let mut sources: HashMap<&str, String> = HashMap::new();
    let mut wrong = Vec::new();
    for row in &rows {
        if row.tests.is_empty() && row.missing.is_empty() {
            wrong.push(format!("{}: neither tests nor what is missing", row.name));
        }
        for &(file, test) in &row.tests {
            let source = sources.entry(file).or_insert_with(|| read(file));
            let exists = match file.starts_with(ROWS) {
                true => in_contract.contains(&test) && source.contains(&format!("fn {test}(")),
                false => has_test(source, test),
            };
            if !exists {
                wrong.push(format!("{}: no test {test} in {file}", row.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
