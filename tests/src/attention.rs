//! Attentions to test with: windows at their edges, caps, sinks, sizes of heads and of what shares them.

use crate::synthetic::Rng;
use codegen::{TableKernel, schedule};
use ir::abi::{KV_BLOCK, Meaning};
use ir::kv::KvFormat;
use ir::quant::{self, Format};
use ir::spec::KernelSpec;
use ir::target::Target;

/// An attention.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Query heads.
    pub heads: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Elements of a query and a key.
    pub head: usize,
    /// Elements of a value.
    pub value: usize,
    /// Positions of the cache.
    pub context: usize,
    /// Positions that a token sees.
    pub window: Option<usize>,
    /// Bound of the scores.
    pub cap: Option<f32>,
    /// Whether there are sinks.
    pub sinks: bool,
}

/// (query heads, KV heads, elements of a key, of a value, context, window, cap, sinks); 0: no window, no cap.
type Figures = (usize, usize, usize, usize, usize, usize, f32, bool);

const ROWS: &[Figures] = &[
    (2, 1, 4, 4, 70, 0, 0.0, false),
    (3, 3, 12, 12, 200, 1, 0.0, false),
    (2, 1, 20, 20, 300, 2, 0.0, true),
    (4, 2, 16, 16, 300, 63, 0.0, false),
    (3, 1, 20, 20, 300, 64, 0.0, false),
    (4, 2, 8, 8, 300, 65, 2.0, false),
    (16, 2, 64, 64, 1300, 128, 0.0, true),
    (5, 1, 100, 100, 150, 0, 1.5, false),
    (4, 2, 256, 256, 300, 96, 50.0, false),
    (32, 1, 64, 64, 130, 0, 0.0, true),
    (32, 1, 12, 12, 700, 513, 0.0, true),
    (8, 1, 512, 512, 90, 0, 0.0, false),
    (4, 2, 40, 40, 1300, 600, 3.0, true),
    (4, 2, 32, 32, 1300, 1299, 0.0, false),
    (2, 2, 24, 24, 130, 500, 0.0, false),
    (6, 3, 28, 28, 1, 1, 0.0, true),
    (4, 2, 12, 20, 200, 70, 0.0, true),
    (16, 1, 576, 512, 80, 0, 0.0, false),
    (66, 1, 16, 16, 130, 0, 0.0, true),
    (74, 2, 8, 12, 600, 70, 0.0, false),
];

/// All of them.
pub fn rows() -> impl Iterator<Item = Row> {
    ROWS.iter().map(|&(heads, kv_heads, head, value, context, window, cap, sinks)| Row {
        heads,
        kv_heads,
        head,
        value,
        context,
        window: (window > 0).then_some(window),
        cap: (cap > 0.0).then_some(cap),
        sinks,
    })
}

impl Row {
    /// Whether keys can lie in tiles.
    pub fn tiles(&self, kv: Format, target: &Target) -> bool {
        let atom = KvFormat::of(kv).and_then(|kv| target.atom(Meaning::Scores(kv.encoding)));
        self.head == self.value && atom.is_some()
    }

    /// Blocks of the smallest ring that holds what steps of up to `tokens` tokens see, if that is less than the context.
    pub fn ring(&self, tokens: usize) -> Option<usize> {
        let blocks = (self.window? + tokens - 1).div_ceil(KV_BLOCK);
        (blocks * KV_BLOCK < self.context).then_some(blocks)
    }

    /// Its spec for steps of up to `tokens` tokens; `tiled` keys lie in tiles; the caches are rings of so many blocks.
    ///
    /// # Panics
    /// If such a body is refused.
    pub fn spec(&self, tokens: usize, kv: Format, (tiled, ring): (bool, Option<usize>), target: &Target) -> KernelSpec {
        let Row { heads, kv_heads, head, value, context, .. } = *self;
        let positions = ring.map_or(context.to_string(), |blocks| format!("{blocks},{KV_BLOCK}"));
        let cache = |n: usize, size: usize, layout: &str| {
            let layout = if tiled { layout } else { "" };
            format!("%{n} = param {n} : {kv}[{kv_heads},{positions},{size}]{layout}\n")
        };
        let mut text = format!("%0 = param 0 : f32[{tokens},{heads},{head}]\n");
        text += &(cache(1, head, "@keys") + &cache(2, value, "@values") + "%3 = param 3 : i32[1]\n");
        let mut node = "%5 = attention %0, %1, %2, %3".to_string();
        if self.sinks {
            text += &format!("%4 = param 4 : f32[{heads}]\n");
            node += ", %4";
        }
        node += &format!(" scale={:?}", 1.0 / (head as f32).sqrt());
        self.window.iter().for_each(|w| node += &format!(" window={w}"));
        self.cap.iter().for_each(|cap| node += &format!(" cap={cap:?}"));
        text += &format!("{node} : f32[{tokens},{}]\noutput \"out\" %5\n", heads * value);
        KernelSpec::new("attention", text.parse().unwrap_or_else(|e| panic!("{e}\n{text}")), tokens, target)
    }

    /// Its kernels for a target: with keys in rows and, where they can be, in tiles, and both in rings.
    ///
    /// # Panics
    /// If one cannot be generated.
    pub fn kernels(&self, tokens: usize, target: &Target) -> Vec<TableKernel> {
        let mut kernels = Vec::new();
        let forms = [quant::F16, quant::Q8_0].into_iter().flat_map(|kv| [(kv, false), (kv, true)]);
        let rings = [None].into_iter().chain(self.ring(tokens).map(Some));
        for ((kv, tiled), ring) in forms.flat_map(|form| rings.clone().map(move |ring| (form, ring))) {
            if tiled && !self.tiles(kv, target) {
                continue;
            }
            let spec = self.spec(tokens, kv, (tiled, ring), target);
            let made = schedule::choose(&spec, target, &[]).unwrap_or_else(|e| panic!("{self:?}: {e}"));
            let kernel = TableKernel::new(spec, made, kernels.len());
            kernels.push(kernel.unwrap_or_else(|e| panic!("{self:?}: {e}")));
        }
        kernels
    }

    /// Positions of the first of `tokens` tokens: the first, the last, and those at which a window or a block begins.
    pub fn positions(&self, tokens: usize, seed: u64) -> Vec<usize> {
        let last = self.context - tokens;
        let window = self.window.unwrap_or(0);
        let edges = [window.saturating_sub(1), window, window + 63, window + 64, window + 511, 511, 512, 63, 64];
        let mut all: Vec<usize> = edges.into_iter().filter(|&p| p < last && p > 0).collect();
        // Two of them, other ones for other kernels.
        let mut rng = Rng::new(seed);
        while all.len() > 2 {
            all.swap_remove(rng.below(all.len()));
        }
        all.extend([0, last]);
        all
    }
}
