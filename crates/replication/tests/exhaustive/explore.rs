//! Goes through all states that can be reached within bounds, depth first.

use crate::actions::{Action, enabled};
use crate::apply::apply;
use crate::machines::Machines;
use crate::state::{Bounds, State};
use quoin_types::collections::HashSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How many there were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Count {
    pub(crate) states: u64,
    pub(crate) transitions: u64,
    /// The longest run without a state that was met before.
    pub(crate) depth: usize,
    /// States in which nothing can happen any more.
    pub(crate) ends: u64,
    /// Different steps of nodes alone, and of gateways alone.
    pub(crate) machines: (usize, usize),
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, transitions, depth, ends, machines: (nodes, gateways) } = self;
        write!(f, "{states} states, {transitions} transitions, {depth} deep, {ends} ends; ")?;
        write!(f, "{nodes} steps of nodes, {gateways} of gateways")
    }
}

struct Frame {
    state: State,
    actions: Vec<Action>,
    next: usize,
}

impl Frame {
    fn new(state: State, bounds: &Bounds) -> Self {
        let actions = enabled(&state, bounds);
        Self { state, actions, next: 0 }
    }
}

/// Explores everything; `Err` is a run that breaks a rule, action by action.
pub(crate) fn explore(bounds: &Bounds) -> Result<Count, String> {
    let mut count = Count::default();
    let mut met: HashSet<u128> = HashSet::default();
    let mut machines = Machines::new(bounds);
    let first = begin(&mut machines)?;
    met.insert(first.hash());
    count.states = 1;
    let mut stack = vec![Frame::new(first, bounds)];
    while let Some(frame) = stack.last_mut() {
        let Some(action) = frame.actions.get(frame.next).copied() else {
            count.ends += u64::from(frame.actions.is_empty());
            stack.pop();
            continue;
        };
        frame.next += 1;
        count.transitions += 1;
        let mut state = frame.state.clone();
        if let Err(problem) = step(&mut state, &mut machines, action) {
            let taken: Vec<String> =
                stack.iter().map(|frame| format!("  {:?}", frame.actions[frame.next - 1])).collect();
            return Err(format!("{problem}\n{}", taken.join("\n")));
        }
        if met.insert(state.hash()) {
            count.states += 1;
            stack.push(Frame::new(state, bounds));
            count.depth = count.depth.max(stack.len());
        }
    }
    count.machines = machines.met();
    Ok(count)
}

/// Takes an action and checks what then is. A panic is a broken rule too.
fn step(state: &mut State, machines: &mut Machines<'_>, action: Action) -> Result<(), String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        apply(state, machines, action)?;
        state.seen.get().check(state)
    }));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("a panic: {}", text.unwrap_or_default()))
    })
}

/// The first state: nothing was ever attached, or the first gateway serves, everything having gone well.
fn begin(machines: &mut Machines<'_>) -> Result<State, String> {
    let bounds = machines.bounds;
    let mut state = State::new(bounds);
    if bounds.served {
        step(&mut state, machines, Action::Attach(0))?;
        let goes_well = |action: &Action| {
            matches!(action, Action::ToNode { .. } | Action::ToGateway { .. } | Action::Sync(_))
        };
        while let Some(action) = enabled(&state, bounds).into_iter().find(goes_well) {
            step(&mut state, machines, action)?;
        }
    }
    Ok(state)
}
