//! A chat template and a conversation: the template up to a zero byte, then role, content, role, content …
#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime::chat::renderer::{Ask, Request};
use runtime::chat::{DateTime, Message, SpecialTexts};
use std::borrow::Cow;

const NOW: DateTime = DateTime { year: 2026, month: 11, day: 22, hour: 12, minute: 0, second: 0 };

fuzz_target!(|input: &str| {
    let (source, rest) = input.split_once('\0').unwrap_or((input, "system\0S\0user\0a <b>\0assistant\0c\0user\0 d\n"));
    let parts: Vec<&str> = rest.split('\0').collect();
    let messages: Vec<Message> = parts.chunks(2).map(|m| Message::new(m[0], *m.last().unwrap_or(&""))).collect();
    let check = |e: String| {
        assert!(e.len() < 1000 && e.lines().count() == 1, "{e}");
    };
    let special = SpecialTexts { bos_token: Some("<s>".into()), eos_token: Some("</s>".into()), ..Default::default() };
    let tools =
        serde_json::json!([{"type": "function", "function": {"name": "f", "parameters": {"n": [1, 2.5, null]}}}]);
    for (prompt, tools) in [(true, None), (false, Some(&tools))] {
        let messages = Cow::Borrowed(&*messages);
        let ask = Ask { messages, add_generation_prompt: prompt, tools: tools.map(Cow::Borrowed) };
        let request = Request { source: source.into(), special: Cow::Borrowed(&special), now: NOW, ask: Some(ask) };
        if let Err(e) = request.answer() {
            check(e);
        }
    }
});
