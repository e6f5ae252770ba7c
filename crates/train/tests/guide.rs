//! The guide's committed figures are what its example program draws.

#[path = "../examples/guide_figures/figures/mod.rs"]
mod figures;

use std::path::Path;

/// A drawing apart from its numbers, and the numbers.
fn parts(svg: &str) -> (String, Vec<f64>) {
    let (mut shape, mut numbers, mut digits) = (String::new(), Vec::new(), String::new());
    for c in svg.chars().chain(['\n']) {
        if c.is_ascii_digit() || c == '.' || (c == '-' && digits.is_empty()) {
            digits.push(c);
            continue;
        }
        match digits.parse() {
            Ok(number) => numbers.push(number),
            Err(_) => shape.push_str(&digits),
        }
        digits.clear();
        shape.push(c);
    }
    (shape, numbers)
}

/// Other instruction sets round otherwise, which may turn a coordinate's last digit.
fn assert_same(name: &str, drawn: &str) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide/figures").join(name).with_extension("svg");
    let committed = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (shape, numbers) = parts(&committed);
    let (new_shape, new_numbers) = parts(drawn);
    let remedy =
        "run `cargo run --release -p embedtune-train --example guide_figures` and look at the difference";
    assert_eq!(shape, new_shape, "{name}: {remedy}");
    for (old, new) in numbers.iter().zip(&new_numbers) {
        assert!((old - new).abs() < 0.11, "{name}: {old} is committed, {new} drawn; {remedy}");
    }
}

#[test]
fn figures_without_training_are_up_to_date() {
    for figure in figures::ALL.iter().filter(|figure| !figure.trains) {
        assert_same(figure.name, &(figure.draw)().unwrap());
    }
}

#[test]
#[ignore = "trains thirty small networks: a minute or more"]
fn figures_with_training_are_up_to_date() {
    for figure in figures::ALL.iter().filter(|figure| figure.trains) {
        assert_same(figure.name, &(figure.draw)().unwrap());
    }
}

#[test]
fn every_figure_is_on_a_page_and_can_stand_in_one() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide");
    let pages: String = std::fs::read_dir(&guide)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    for figure in &figures::ALL {
        let file = format!("figures/{}.svg", figure.name);
        assert!(pages.contains(&file), "no page shows {file}; the figures are {}", figures::names());
        let svg = std::fs::read_to_string(guide.join(&file)).unwrap();
        // Markdown ends an HTML block at an empty line, and starts one only at a tag that has its line to itself.
        assert!(svg.lines().all(|line| !line.trim().is_empty()), "{file} has an empty line");
        assert!(svg.lines().next().unwrap().ends_with('>'), "{file}: the first tag must end its line");
    }
}

#[test]
fn the_comparison_sees_differences() {
    let (shape, numbers) = parts("<path d=\"M1.5 -2L3 4\"/>");
    assert_eq!((shape.as_str(), numbers), ("<path d=\"M L \"/>\n", vec![1.5, -2.0, 3.0, 4.0]));
}
