//! Tests of the extraction from documents that arrive in pieces.

use crate::dialect::json_extractor::JsonExtractor;

const BODY: &str = r#"{"a":"\"usage\":{}","usage" : null,"x":{"usage":{"n":1}},"y":["usage",{}],
    "usage" : {"n":"}\"","m":[{}],"usage":{}},"usagE":{},"usage2":{},"us":{},"z":"usage"}"#;

fn found(pieces: &[&str]) -> Vec<String> {
    let mut extractor = JsonExtractor::new(&[b"usage"]);
    let mut objects = Vec::new();
    for piece in pieces {
        extractor.read(piece.as_bytes(), |_, value| {
            objects.push(String::from_utf8_lossy(value).into_owned());
        });
    }
    objects
}

#[test]
fn an_object_is_found_at_any_cut() {
    for cut in 0..BODY.len() {
        for second in cut..BODY.len() {
            let objects = found(&[&BODY[..cut], &BODY[cut..second], &BODY[second..]]);
            assert_eq!(objects, [r#"{"n":"}\"","m":[{}],"usage":{}}"#], "{cut} {second}");
        }
    }
}

#[test]
fn each_object_of_an_array_is_searched() {
    let body = "[{\"usage\":{\"n\":1},\"a\":[1,2]}\n,\r\n{\"a\":{\"usage\":{}},\"usage\":{}}\n]";
    for cut in 0..body.len() {
        assert_eq!(found(&[&body[..cut], &body[cut..]]), [r#"{"n":1}"#, "{}"], "{cut}");
    }
    assert_eq!(found(&[r#"["usage",{"n":1}]"#]), Vec::<String>::new());
    assert_eq!(found(&[r#"[["usage",{"n":1},"usage",{"usage":{}}]]"#]), Vec::<String>::new());
    assert_eq!(found(&[r#"[{},"usage",{"n":1}]"#]), Vec::<String>::new());
}

#[test]
fn nested_fields_are_content() {
    for body in [
        r#"{"content":[{"type":"tool_use","input":{"usage":{"input_tokens":0}}}]}"#,
        r#"{"tools":[{"schema":{"properties":{"usage":{}}}}]}"#,
        r#"{"usage":[{"usage":{}}]}"#,
        r#"{"a":{"b":1},"c":"usage","d":{}}"#,
        r#"{"usage":"usage","d":{}}"#,
    ] {
        assert_eq!(found(&[body]), Vec::<String>::new(), "{body}");
    }
}

#[test]
fn objects_in_the_array_of_a_key_are_counted_but_not_nested_ones() {
    let body =
        r#"{"data":[{"x":[{},{"data":[{}]}]},"{",{},[{}]],"other":[{}],"usage":{"data":[{}]}}"#;
    for cut in 0..body.len() {
        let mut extractor = JsonExtractor::new(&[b"usage", b"data"]);
        let mut objects = 0;
        for piece in [&body[..cut], &body[cut..]] {
            extractor.read(piece.as_bytes(), |_, _| objects += 1);
        }
        assert_eq!((extractor.elements_seen(), objects), (2, 1), "{cut}");
    }
}

#[test]
fn values_of_any_type_and_objects_in_arrays_are_found() {
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
            let mut extractor = JsonExtractor::any_value(&[b"id", b"store", b"output", b"usage"]);
            let mut found = Vec::new();
            for piece in [&body[..cut], &body[cut..second], &body[second..]] {
                extractor.read(piece.as_bytes(), |key, value| {
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    found.push(format!("{} {}", text(key), text(value)));
                });
            }
            assert_eq!(found, expected, "{cut} {second}");
        }
    }
}

#[test]
fn several_keys_are_found_in_one_pass() {
    let body = r#"{"container":{"a":1},"co":{},"usage":{"b":2},"contain":{},"containers":{}}"#;
    for cut in 0..body.len() {
        let mut extractor = JsonExtractor::new(&[b"usage", b"container"]);
        let mut objects = Vec::new();
        for piece in [&body[..cut], &body[cut..]] {
            extractor.read(piece.as_bytes(), |key, value| {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                objects.push((text(key), text(value)));
            });
        }
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let expected = [pair("container", r#"{"a":1}"#), pair("usage", r#"{"b":2}"#)];
        assert_eq!(objects, expected, "{cut}");
    }
}

#[test]
fn fields_are_found_in_the_outer_object_only() {
    let body = r#"{"usage":{"n":0},"id":"a","response" : {"usage":{"n":1,"usage":{}},"response":{"id":3},
        "output":[{"id":4},{"response":{"id":5}}],"x":{"id":6},"text":"\"id\":7,","store":false},
        "store":8,"y":{"response":{"id":9}},"usage":{},"z":[{"response":{"id":1}}]}"#;
    let not = r#"{"response":null,"id":1,"response":"response","usage":{},"response":[{"id":2}],"response":7}"#;
    let expected = [
        r#"usage {"n":1,"usage":{}}"#,
        r#"output {"id":4}"#,
        r#"output {"response":{"id":5}}"#,
        "store false",
    ];
    for (body, expected) in [(body, &expected[..]), (not, &[])] {
        for (cut, second) in
            (0..body.len()).flat_map(|at| (at..body.len()).map(move |end| (at, end)))
        {
            let mut extractor =
                JsonExtractor::nested_in(&[b"response"], &[b"usage", b"store", b"id", b"output"]);
            let (mut found, mut closed, mut received) = (Vec::new(), None, 0);
            for piece in [&body[..cut], &body[cut..second], &body[second..]] {
                assert_eq!(closed, None);
                let end = extractor.read(piece.as_bytes(), |key, value| {
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    found.push(format!("{} {}", text(key), text(value)));
                });
                closed = end.map(|end| received + end);
                received += piece.len();
            }
            assert_eq!(found, expected, "{cut} {second}");
            assert_eq!(closed, Some(body.len() - 1), "{cut} {second}");
        }
    }
}

#[test]
fn long_strings_are_dropped_from_an_element() {
    let text = r#"\\x\"\u00e9\n"#.repeat(1_000);
    for begin in 0..16 {
        let long = "x".repeat(begin) + &text;
        assert_long_strings_dropped(&long);
    }
}

fn assert_long_strings_dropped(long: &str) {
    let body = format!(r#"{{"output":[{{"a":"{long}","type":"b","c":["{long}"],"d":{{}}}}]}}"#);
    for step in [1, 2, 3, 7, 1_000, 5_000, body.len()] {
        let mut extractor = JsonExtractor::any_value(&[b"output"]);
        let mut found = Vec::new();
        for piece in body.as_bytes().chunks(step) {
            extractor
                .read(piece, |_, value| found.push(String::from_utf8_lossy(value).into_owned()));
        }
        let [element] = &found[..] else { panic!("one element: {found:?}") };
        assert!(element.len() < 5_000, "{}", element.len());
        let mut fields = Vec::new();
        crate::dialect::json::fields(element.as_bytes(), |key, value| {
            fields.push((key.into_owned(), value));
        })
        .expect("it is whole");
        assert_eq!(
            fields.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
            ["a", "type", "c", "d"]
        );
        assert_eq!(&element[fields[1].1.clone()], r#""b""#);
    }
}
