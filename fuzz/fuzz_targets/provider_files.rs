#![no_main]

use kasbah_registry::fuzzing::provider_file;

libfuzzer_sys::fuzz_target!(
    init: assert!(provider_file("providers: [{name: a}]").is_some(), "what is sound is read"),
    |text: &str| {
        // By itself, and as what follows a sound beginning.
        let entry = format!("providers:\n- name: a\n  config:\n    b: {text}");
        for text in [text, &entry] {
            for provider in provider_file(text).into_iter().flatten() {
                for name in [&provider.name, &provider.manager] {
                    assert!((1..=255).contains(&name.chars().count()), "{name:?}");
                    assert!(!name.contains('\0'), "{name:?}");
                }
                assert!(provider.config_json.len() <= 64 * 1024);
                let config: serde_json::Value =
                    serde_json::from_slice(&provider.config_json).expect("what is read is JSON");
                assert!(config.is_object());
                assert!(provider.labels.len() <= 64);
            }
        }
    }
);
