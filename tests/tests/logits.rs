//! Logits of every token of a step.

use ir::quant;
use tests::run::{self, Settings};
use tests::synthetic::Synthetic;

#[test]
fn a_step_gives_the_logits_of_each_token() {
    let model = Synthetic { width: 96, head: 24, format: quant::Q8_0, ..Synthetic::default() };
    let file = run::file(model.gguf()).unwrap();
    let tokens = [5, 17, 100, 3, 3, 42, 8];
    for target in run::targets() {
        let mut e = run::executor(&file, Settings::new(target), 2);
        assert!(e.logits_of(0).is_err());
        assert_eq!(e.logits_capacity(), 16);
        let single: Vec<Vec<f32>> = tokens
            .iter()
            .map(|&t| {
                e.step(&[t]).unwrap();
                assert_eq!(e.logits_of(0).unwrap().to_vec(), e.logits().unwrap());
                e.logits().unwrap().to_vec()
            })
            .collect();
        e.set_position(0).unwrap();
        e.step(&tokens).unwrap();
        for (i, expected) in single.iter().enumerate() {
            assert_eq!(e.logits_of(i).unwrap(), expected, "{}, token {i}", target.name);
        }
        assert!(e.logits_of(tokens.len()).is_err());
        // Of a long step, only the last token's.
        e.set_position(0).unwrap();
        let long: Vec<u32> = (0..e.capacity() as u32).collect();
        e.step(&long).unwrap();
        assert!(e.logits_of(0).is_err());
        let last = e.logits_of(long.len() - 1).unwrap().to_vec();
        assert_eq!(last, e.logits().unwrap());
    }
}
