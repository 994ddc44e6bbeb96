//! What is found in documents that pass by in pieces.

use crate::dialect::capture::Capture;

#[test]
fn objects_of_a_list_behind_a_key_are_counted_and_not_what_is_in_them() {
    let body =
        r#"{"data":[{"x":[{},{"data":[{}]}]},"{",{},[{}]],"other":[{}],"usage":{"data":[{}]}}"#;
    for cut in 0..body.len() {
        let mut capture = Capture::new(&[b"usage", b"data"]);
        let mut objects = 0;
        for piece in [&body[..cut], &body[cut..]] {
            capture.read(piece.as_bytes(), |_, _| objects += 1);
        }
        assert_eq!((capture.listed(), objects), (2, 1), "{cut}");
    }
}

#[test]
fn values_of_all_kinds_are_found_and_of_an_array_each_object() {
    let body = r#"{"id" : "a\",}\"" ,"store":false,"n":{"id":1},"usage":null,
        "output":[{"type":"a","output":[{}]} , 7,[{"b":1}],"output",{}],
        "x":["id"],"usage":{"a":[1]},"id":-1.5}"#;
    let expected = [
        r#"id "a\",}\"""#,
        "store false",
        "usage null",
        r#"output {"type":"a","output":[{}]}"#,
        "output {}",
        r#"usage {"a":[1]}"#,
        "id -1.5",
    ];
    for cut in 0..body.len() {
        for second in cut..body.len() {
            let mut capture = Capture::of_any(&[b"id", b"store", b"output", b"usage"]);
            let mut found = Vec::new();
            for piece in [&body[..cut], &body[cut..second], &body[second..]] {
                capture.read(piece.as_bytes(), |key, value| {
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    found.push(format!("{} {}", text(key), text(value)));
                });
            }
            assert_eq!(found, expected, "{cut} {second}");
        }
    }
}
