//! What chat templates use beyond plain Jinja, as transformers renders it, and the limits of the sandbox.

use std::time::{Duration, SystemTime};

use rocmforge_tokenizer::{ChatTemplate, RenderContext, TemplateError};
use serde_json::{Value, json};

fn render_with(source: &str, messages: &Value, extra: Value) -> Result<String, TemplateError> {
    let template = ChatTemplate::new(source, Some("<s>".into()), Some("</s>".into()))?;
    let context = RenderContext {
        extra: extra.as_object().unwrap().clone(),
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        ..RenderContext::default()
    };
    template.render(messages, &context)
}

fn check(source: &str, expected: &str) {
    let messages = json!([
        {"role": "user", "content": "Hello <b>'é'</b> \n", "tags": {"items": [1, 2.5, null, true], "z": 1, "a": "x"}},
        {"role": "assistant", "content": null},
    ]);
    let rendered = render_with(source, &messages, json!({"day": "Monday"}));
    assert_eq!(rendered.unwrap_or_else(|e| panic!("{source}: {e}")), expected, "{source}");
}

#[test]
fn variables_are_those_of_transformers() {
    check("{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}", "<s></s>True");
    check("{{ tools is none }}{{ tools is defined }}{{ documents is none }}", "TrueTrueTrue");
    check("{{ day }}{{ nothing is defined }}[{{ nothing }}]", "MondayFalse[]");
    check("{{ tools is iterable }}{{ messages is iterable }}{{ tools is mapping }}", "FalseTrueFalse");
    check("{{ messages[1].content is none }}{{ messages[1]['content'] }}", "TrueNone");
}

#[test]
fn json_is_written_as_python_writes_it() {
    check(
        "{{ messages[0] | tojson }}",
        r#"{"role": "user", "content": "Hello <b>'é'</b> \n", "tags": {"items": [1, 2.5, null, true], "z": 1, "a": "x"}}"#,
    );
    check(
        "{{ messages[0].tags | tojson(sort_keys=true, separators=(',', ':')) }}",
        r#"{"a":"x","items":[1,2.5,null,true],"z":1}"#,
    );
    check("{{ [1, {'a': []}] | tojson(indent=2) }}", "[\n  1,\n  {\n    \"a\": []\n  }\n]");
    check("{{ 'é🚀' | tojson(ensure_ascii=true) }}", r#""\u00e9\ud83d\ude80""#);
    check("{{ {'n': 1e-7, 'm': 100.0} | tojson }}{{ 1e-7 }}", r#"{"n": 1e-07, "m": 100.0}1e-07"#);
}

#[test]
fn python_methods_work() {
    check("{{ messages[0].tags.items() | list | length }}{{ messages[0].tags['items'][0] }}", "31");
    check(
        "{% for k, v in messages[0].tags.items() %}{{ k }}={{ v }};{% endfor %}",
        "items=[1, 2.5, None, True];z=1;a=x;",
    );
    check("{{ messages[0].get('none', 'default') }}{{ messages[0].get('none') }}", "defaultNone");
    check("{{ 'a,b,c'.split(',')[-1] }}{{ 'a,b,c'.split(',', 1)[1] }}{{ 'a b'.split() | length }}", "cb,c2");
    check("{{ ' x '.strip() }}{{ 'xxa'.lstrip('x') }}{{ 'axx'.rstrip('x') }}", "xaa");
    check("{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('x', 'c')) }}", "TrueTrue");
    check("{{ 'prefix-x'.removeprefix('prefix-') }}{{ 'x.py'.removesuffix('.py') }}", "xx");
    check(
        "{{ 'a=b=c'.partition('=')[2] }}{{ 'a=b=c'.rpartition('=')[0] }}{{ 'a-b-c'.rsplit('-', 1)[0] }}",
        "b=ca=ba-b",
    );
    check("{{ '{} and {:>3}'.format(1, 'x') }}{{ '7'.zfill(3) }}{{ 'x'.ljust(2) }}|", "1 and   x007x |");
    check("{{ 'abc'.index('c') }}{{ [1, 2].index(2) }}{{ 'abc'.find('x') }}{{ 'aXb'.upper().title() }}", "21-1Axb");
    check(
        "{{ 'hello'[1:3] }}{{ 'hello'[::-1] }}{{ messages[1:] | length }}{{ messages[-1].role }}",
        "elolleh1assistant",
    );
}

#[test]
fn statements_follow_the_settings_of_transformers() {
    check("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2");
    check(
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        "02",
    );
    check("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc");
    check("{% generation %}x{% endgeneration %}{%- generation -%} y {%- endgeneration %}", "xy");
    check("{% macro f(x, y=2) %}{{ x }}{{ y }}{% endmacro %}{{ f(1) }}{{ f(1, y=3) }}", "1213");
    check("{% if 'b' in 'abc' and 'role' in messages[0] and 3 not in [1] %}y{% endif %}", "y");
    check("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ 'a' ~ 1 ~ none }}", "1a1None");
    check("{{ strftime_now('%Y-%m-%d %H:%M %d %b %B %A') }}", "2023-11-14 22:13 14 Nov November Tuesday");
}

#[test]
fn a_refusal_is_told_apart_from_a_broken_template() {
    let error = |source: &str| render_with(source, &json!([]), json!({})).unwrap_err();
    match error("{% macro f() %}{{ raise_exception('Roles must ' ~ 'alternate') }}{% endmacro %}{{ f() }}") {
        TemplateError::Raised(message) => assert_eq!(message, "Roles must alternate"),
        other => panic!("{other:?}"),
    }
    for source in [
        "{{ messages[0].content.x }}",
        "{{ 1 + 'a' }}",
        "{{ 'x' | no_filter }}",
        "{{ no_function() }}",
        "{{ strftime_now('%!') }}",
    ] {
        assert!(matches!(error(source), TemplateError::Render(_) | TemplateError::Syntax(_)), "{source}");
    }
    for source in ["{{", "{% if %}", "{% for x in y %}", "{% unknown %}"] {
        assert!(matches!(error(source), TemplateError::Syntax(_)), "{source}");
    }
}

#[test]
fn a_template_cannot_load_anything() {
    for source in ["{% include '/etc/passwd' %}", "{% import 'x' as y %}", "{% extends 'x' %}"] {
        assert!(render_with(source, &json!([]), json!({})).is_err(), "{source}");
    }
}

#[test]
fn a_hostile_template_hits_a_limit() {
    let check = |source: &str, limit: &str| match render_with(source, &json!([]), json!({})) {
        Err(TemplateError::Limit { what, .. }) => assert_eq!(what, limit, "{source}"),
        other => panic!("{source}: {other:?}"),
    };
    let nested = "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}{% endfor %}{% endfor %}{% endfor %}";
    check(nested, "steps");
    check("{% for a in range(99999) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}", "output");
    check(&"x".repeat(2 << 20), "its size");
    let fails = |source: &str| assert!(render_with(source, &json!([]), json!({})).is_err(), "{source}");
    fails("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
    fails("{{ 'x' * 10000000000 }}");
    fails("{{ range(1000000000000) | list }}");
    fails("{{ '%4000000000d' | format(1) }}");
    fails("{{ '{:>4000000000}'.format('x') }}");
    fails("{{ 'x' | indent(4000000000, true) }}");
    fails(&format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000)));
}

#[test]
fn deeply_nested_values_do_not_overflow_the_stack() {
    let source = "{% set ns = namespace(x=[]) %}{% for a in range(50000) %}{% set ns.x = [ns.x] %}{% endfor %}done";
    assert_eq!(render_with(source, &json!([]), json!({})).unwrap(), "done");
    let printed = source.replace("done", "{{ ns.x | tojson }}");
    assert!(matches!(render_with(&printed, &json!([]), json!({})), Err(TemplateError::Render(_))));
    for shown in ["{{ ns.x }}", "{{ ns.x == ns.x[0] }}", "{{ [ns.x, [ns.x]] | sort }}"] {
        let _ = render_with(&source.replace("done", shown), &json!([]), json!({}));
    }
}

#[test]
fn the_deepest_value_that_the_steps_allow_does_not_overflow_the_stack() {
    let many: Vec<Value> = (0..10_000).map(|_| json!("x")).collect();
    let source = "{% set ns = namespace(x=1) %}{% for a in range(99) %}{% for b in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}";
    let error = render_with(source, &json!(many), json!({})).unwrap_err();
    assert!(matches!(error, TemplateError::Limit { what: "steps", .. }), "{error}");
}

#[test]
fn the_fallback_is_chatml() {
    let text = ChatTemplate::fallback().render(&json!([{"role": "user", "content": "Hi"}]), &RenderContext::default());
    assert_eq!(text.unwrap(), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

#[test]
fn long_conversations_stay_within_the_limits() {
    let turn = |i: usize| json!({"role": if i.is_multiple_of(2) { "user" } else { "assistant" }, "content": "word ".repeat(200)});
    let messages: Vec<Value> = (0..1000).map(turn).collect();
    let source = "{% for m in messages %}{% for n in messages[:50] %}{% if n.role == 'user' and m.role != n.role %}{% set x = n.content | length %}{% endif %}{% endfor %}{{ m.content }}{% endfor %}";
    let text = render_with(source, &json!(messages), json!({})).unwrap();
    assert_eq!(text.len(), 1_000_000);
}
