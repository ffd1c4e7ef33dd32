//! Nodes and what each comes after: the shape of a graph, of an executable graph and of a capture. Nodes are numbers that
//! ascend in the order of creation and are unique in the process; each has a payload. Invariant: no node comes, by any
//! path, after itself, and an edge exists once. `graph.rs` gives the payload a meaning.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What an edge carries: the bytes of `CUgraphEdgeData`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct EdgeData {
    /// What of the upstream node must have happened: 0 all of it, 1 of a kernel `launch_dependents`.
    pub(crate) from_port: u8,
    /// What of the downstream node waits; 0 all of it, the only port there is.
    pub(crate) to_port: u8,
    /// `CU_GRAPH_DEPENDENCY_TYPE_DEFAULT` (0) or `_PROGRAMMATIC` (1).
    pub(crate) kind: u8,
}

impl EdgeData {
    /// The downstream kernel may begin once the upstream one lets it.
    pub(crate) const PROGRAMMATIC: EdgeData = EdgeData { from_port: 1, to_port: 0, kind: 1 };

    /// As C passes it.
    pub(crate) fn bytes(self) -> [u8; 8] {
        [self.from_port, self.to_port, self.kind, 0, 0, 0, 0, 0]
    }

    /// Whether a query that returns no edge data says all there is.
    pub(crate) fn is_default(self) -> bool {
        self == EdgeData::default()
    }
}

/// What a node comes after.
pub(crate) type Dependency = (u64, EdgeData);

/// An edge that is not possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EdgeError {
    /// A node is not in the graph.
    Unknown,
    /// It exists, is given twice, or is from a node to itself.
    Exists,
    /// It does not exist with this data.
    Missing,
    /// It would close a cycle.
    Cycle,
}

#[derive(Debug, Clone)]
struct Node<T> {
    payload: T,
    before: Vec<Dependency>,
    after: Vec<u64>,
}

/// A directed acyclic graph.
#[derive(Debug, Clone)]
pub(crate) struct Dag<T> {
    nodes: BTreeMap<u64, Node<T>>,
}

impl<T> Default for Dag<T> {
    fn default() -> Self {
        Dag { nodes: BTreeMap::new() }
    }
}

impl<T> Dag<T> {
    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The payload of a node.
    pub(crate) fn get(&self, node: u64) -> Option<&T> {
        self.nodes.get(&node).map(|n| &n.payload)
    }

    /// The payload of a node.
    pub(crate) fn get_mut(&mut self, node: u64) -> Option<&mut T> {
        self.nodes.get_mut(&node).map(|n| &mut n.payload)
    }

    /// Payloads in the order of creation.
    pub(crate) fn payloads_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.nodes.values_mut().map(|n| &mut n.payload)
    }

    /// Nodes with their payloads, in the order of creation.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.nodes.iter().map(|(&id, node)| (id, &node.payload))
    }

    /// Nodes in the order of creation.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> {
        self.nodes.keys().copied()
    }

    /// Nodes that come after none.
    pub(crate) fn roots(&self) -> impl Iterator<Item = u64> {
        self.nodes.iter().filter(|(_, n)| n.before.is_empty()).map(|(&id, _)| id)
    }

    /// Whether nothing comes after a node.
    pub(crate) fn is_leaf(&self, node: u64) -> bool {
        self.nodes.get(&node).is_none_or(|n| n.after.is_empty())
    }

    /// What a node comes after, in the order in which that was said.
    pub(crate) fn before(&self, node: u64) -> &[Dependency] {
        self.nodes.get(&node).map_or(&[], |n| &n.before)
    }

    /// The nodes that come after a node, with the data of the edges.
    pub(crate) fn after(&self, node: u64) -> Vec<Dependency> {
        let after = self.nodes.get(&node).map_or(&[][..], |n| &n.after);
        let data = |to: u64| self.before(to).iter().find(|d| d.0 == node).map_or(EdgeData::default(), |d| d.1);
        after.iter().map(|&to| (to, data(to))).collect()
    }

    /// Edges `(from, to, data)` in the order of their downstream nodes.
    pub(crate) fn edges(&self) -> impl Iterator<Item = (u64, u64, EdgeData)> {
        self.nodes.iter().flat_map(|(&to, n)| n.before.iter().map(move |&(from, data)| (from, to, data)))
    }

    /// Adds a node, whose number is above all others.
    ///
    /// # Errors
    /// [`EdgeError::Unknown`] or [`EdgeError::Exists`]; nothing is added then.
    pub(crate) fn add(&mut self, id: u64, payload: T, before: &[Dependency]) -> Result<(), EdgeError> {
        let mut seen = BTreeSet::new();
        for (from, _) in before {
            if !self.nodes.contains_key(from) {
                return Err(EdgeError::Unknown);
            }
            if !seen.insert(from) {
                return Err(EdgeError::Exists);
            }
        }
        for (from, _) in before {
            if let Some(node) = self.nodes.get_mut(from) {
                node.after.push(id);
            }
        }
        self.nodes.insert(id, Node { payload, before: before.to_vec(), after: Vec::new() });
        Ok(())
    }

    /// Adds edges `(from, to, data)`, all or none.
    ///
    /// # Errors
    /// Any [`EdgeError`] but `Missing`.
    pub(crate) fn connect(&mut self, edges: &[(u64, u64, EdgeData)]) -> Result<(), EdgeError> {
        let mut have: BTreeSet<(u64, u64)> = BTreeSet::new();
        for &(from, to, _) in edges {
            if !self.nodes.contains_key(&from) || !self.nodes.contains_key(&to) {
                return Err(EdgeError::Unknown);
            }
            if from == to || !have.insert((from, to)) || self.before(to).iter().any(|d| d.0 == from) {
                return Err(EdgeError::Exists);
            }
        }
        for &(from, to, data) in edges {
            self.link(from, to, data);
        }
        if self.sorted().len() < self.nodes.len() {
            for &(from, to, _) in edges {
                self.unlink(from, to);
            }
            return Err(EdgeError::Cycle);
        }
        Ok(())
    }

    /// Removes edges, all or none.
    ///
    /// # Errors
    /// [`EdgeError::Unknown`] or [`EdgeError::Missing`].
    pub(crate) fn disconnect(&mut self, edges: &[(u64, u64, EdgeData)]) -> Result<(), EdgeError> {
        let mut seen = BTreeSet::new();
        for &(from, to, data) in edges {
            if !self.nodes.contains_key(&from) || !self.nodes.contains_key(&to) {
                return Err(EdgeError::Unknown);
            }
            if !seen.insert((from, to)) || !self.before(to).contains(&(from, data)) {
                return Err(EdgeError::Missing);
            }
        }
        for &(from, to, _) in edges {
            self.unlink(from, to);
        }
        Ok(())
    }

    fn link(&mut self, from: u64, to: u64, data: EdgeData) {
        if let Some(node) = self.nodes.get_mut(&to) {
            node.before.push((from, data));
        }
        if let Some(node) = self.nodes.get_mut(&from) {
            node.after.push(to);
        }
    }

    fn unlink(&mut self, from: u64, to: u64) {
        if let Some(node) = self.nodes.get_mut(&to) {
            node.before.retain(|d| d.0 != from);
        }
        if let Some(node) = self.nodes.get_mut(&from) {
            node.after.retain(|&n| n != to);
        }
    }

    /// Removes a node and its edges.
    pub(crate) fn remove(&mut self, node: u64) -> Option<T> {
        let Node { payload, before, after } = self.nodes.remove(&node)?;
        for (from, _) in before {
            self.unlink(from, node);
        }
        for to in after {
            self.unlink(node, to);
        }
        Some(payload)
    }

    /// Nodes in an order in which each comes after those before it, by creation where that leaves a choice. Shorter than
    /// the graph only while it has a cycle.
    pub(crate) fn sorted(&self) -> Vec<u64> {
        let mut left: HashMap<u64, usize> = self.nodes.iter().map(|(&id, n)| (id, n.before.len())).collect();
        let mut ready: BTreeSet<u64> = self.roots().collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(id) = ready.pop_first() {
            order.push(id);
            for &next in &self.nodes[&id].after {
                if let Some(count) = left.get_mut(&next) {
                    *count -= 1;
                    if *count == 0 {
                        ready.insert(next);
                    }
                }
            }
        }
        order
    }

    /// The nodes given and all that they come after.
    pub(crate) fn ancestors(&self, nodes: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
        let mut stack: Vec<u64> = nodes.into_iter().collect();
        let mut found = BTreeSet::new();
        while let Some(node) = stack.pop() {
            if found.insert(node) {
                stack.extend(self.before(node).iter().map(|d| d.0));
            }
        }
        found
    }

    /// The same shape with other payloads and numbers; `each` is called in the order of creation.
    ///
    /// # Errors
    /// The first of `each`.
    pub(crate) fn map<U, E>(&self, mut each: impl FnMut(u64, &T) -> Result<(u64, U), E>) -> Result<Dag<U>, E> {
        let mut renamed = HashMap::new();
        let mut made = Vec::with_capacity(self.nodes.len());
        for (&id, node) in &self.nodes {
            let (new, payload) = each(id, &node.payload)?;
            renamed.insert(id, new);
            made.push((new, payload, node));
        }
        let nodes = made.into_iter().map(|(id, payload, node)| {
            let before = node.before.iter().map(|&(from, data)| (renamed[&from], data)).collect();
            let after = node.after.iter().map(|to| renamed[to]).collect();
            (id, Node { payload, before, after })
        });
        Ok(Dag { nodes: nodes.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: EdgeData = EdgeData { from_port: 0, to_port: 0, kind: 0 };

    /// 1 before 2 and 3, both before 4.
    fn diamond() -> Dag<&'static str> {
        let mut dag = Dag::default();
        dag.add(1, "a", &[]).unwrap();
        dag.add(2, "b", &[(1, FULL)]).unwrap();
        dag.add(3, "c", &[(1, EdgeData::PROGRAMMATIC)]).unwrap();
        dag.add(4, "d", &[(2, FULL), (3, FULL)]).unwrap();
        dag
    }

    #[test]
    fn edges_are_seen_from_both_ends() {
        let dag = diamond();
        assert_eq!(dag.after(1), [(2, FULL), (3, EdgeData::PROGRAMMATIC)]);
        assert_eq!(dag.before(4), [(2, FULL), (3, FULL)]);
        assert_eq!(dag.roots().collect::<Vec<_>>(), [1]);
        assert_eq!(dag.edges().count(), 4);
        assert_eq!(dag.ancestors([3]).into_iter().collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn a_cycle_is_refused_and_leaves_nothing() {
        let mut dag = diamond();
        assert_eq!(dag.connect(&[(4, 1, FULL)]), Err(EdgeError::Cycle));
        assert_eq!(dag.connect(&[(2, 3, FULL), (3, 2, FULL)]), Err(EdgeError::Cycle));
        assert_eq!(dag.edges().count(), 4);
        assert_eq!(dag.sorted(), [1, 2, 3, 4]);
        dag.connect(&[(3, 2, FULL)]).unwrap();
        assert_eq!(dag.sorted(), [1, 3, 2, 4]);
    }

    #[test]
    fn an_edge_exists_once_and_is_removed_with_its_data() {
        let mut dag = diamond();
        assert_eq!(dag.connect(&[(1, 2, FULL)]), Err(EdgeError::Exists));
        assert_eq!(dag.connect(&[(2, 2, FULL)]), Err(EdgeError::Exists));
        assert_eq!(dag.connect(&[(2, 9, FULL)]), Err(EdgeError::Unknown));
        assert_eq!(dag.disconnect(&[(1, 3, FULL)]), Err(EdgeError::Missing));
        dag.disconnect(&[(1, 3, EdgeData::PROGRAMMATIC)]).unwrap();
        assert_eq!(dag.roots().collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn a_removed_node_leaves_no_edge() {
        let mut dag = diamond();
        assert_eq!(dag.remove(3), Some("c"));
        assert_eq!(dag.after(1), [(2, FULL)]);
        assert_eq!(dag.before(4), [(2, FULL)]);
    }

    #[test]
    fn a_copy_has_its_own_numbers() {
        let copy = diamond().map(|id, p| Ok::<_, ()>((id + 10, *p))).unwrap();
        assert_eq!(copy.sorted(), [11, 12, 13, 14]);
        assert_eq!(copy.after(11), [(12, FULL), (13, EdgeData::PROGRAMMATIC)]);
    }
}
