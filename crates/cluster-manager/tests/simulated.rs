//! Members in one thread, under crashes and a bad network: the code that ships, without its shell.

mod world;

use quoin_cluster_manager::member::{Answer, Member, Reply, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use world::{SECOND, STORM, World};

/// A minute of storm with ten registrations per second, then calm.
fn storm(seed: u64) -> World {
    let mut world = World::new(3, seed);
    assert!(world.run_until(SECOND * 20, |world| world.leader().is_some()), "nobody leads");
    world.set_weather(STORM);
    for _ in 0..600 {
        world.operate();
        world.run(SECOND / 10);
    }
    world.heal();
    assert!(world.run_until(SECOND * 30, World::has_converged), "seed {seed}: no convergence");
    world
}

#[test]
fn what_was_answered_is_never_lost_in_a_storm() {
    for seed in 1..=3 {
        let world = storm(seed);
        assert_eq!(world.answered(), world.asked());
        assert!(world.asked() > 500);
        let scope = (world.crashes, world.terms.len(), world.reads);
        assert!(scope.0 >= 10 && scope.1 >= 5 && scope.2 >= 50, "seed {seed} tries too little: {scope:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let runs = [7, 7, 8].map(|seed| {
        let world = storm(seed);
        let state = world.member(1).map(|member| member.state().encode());
        (world.trace, world.now, world.reads, state)
    });
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0].0, runs[2].0);
}

#[test]
fn a_lost_member_is_replaced_by_one_with_an_empty_disk() {
    let mut world = World::new(3, 11);
    assert!(world.run_until(SECOND * 20, |world| world.leader().is_some()));
    let lost = world.leader().unwrap();
    (0..50).for_each(|_| world.operate());
    assert!(world.run_until(SECOND * 10, World::has_converged));
    world.lose_host(lost);
    world.add_host(4, BTreeMap::new());
    let change = Request::ChangeMembers { add: Some((4, "manager-4:1".to_owned())), remove: Some(lost) };
    assert_eq!(world.ask_leader(&change), Answer::Reply(Reply::MembersChanged));
    assert_eq!(world.ask_leader(&change), Answer::Reply(Reply::MembersChanged), "asked again");
    assert!(world.run_until(SECOND * 10, World::has_converged));
    let of = |world: &World, id| world.member(id).map(|member| member.state().managers().clone()).unwrap();
    let left = (1..=4).filter(|id| *id != lost);
    let expected: BTreeMap<u64, String> = left.clone().map(|id| (id, format!("manager-{id}:1"))).collect();
    assert_eq!(of(&world, 4), expected);
    // Each that is left may be lost now, and what is written then is kept through a restart of all.
    let next = world.leader().unwrap();
    world.lose_host(next);
    world.operate();
    assert!(world.run_until(SECOND * 20, World::has_converged), "two of three are no majority");
    let rest: Vec<u64> = left.filter(|id| *id != next).collect();
    rest.iter().for_each(|id| world.crash(*id));
    assert!(world.run_until(SECOND * 20, |world| world.leader().is_some() && World::has_converged(world)));
    assert_eq!(world.answered(), 51);
    assert_eq!(
        of(&world, rest[0]).keys().copied().collect::<BTreeSet<u64>>(),
        expected.into_keys().collect()
    );
}

/// A new member begins with a snapshot that it is in, however few entries there are; and after a restart nobody looks for a
/// majority among those that were let go.
#[test]
fn all_members_are_replaced_one_after_the_other() {
    for seed in 1..=5 {
        let mut world = World::new(3, seed);
        for lost in 1..=3 {
            assert!(
                world.run_until(SECOND * 20, |world| world.leader().is_some()),
                "seed {seed}, lost {lost}"
            );
            world.lose_host(lost);
            let new = lost + 3;
            world.add_host(new, BTreeMap::new());
            let add = Some((new, format!("manager-{new}:1")));
            let answer = world.ask_leader(&Request::ChangeMembers { add, remove: Some(lost) });
            assert_eq!(answer, Answer::Reply(Reply::MembersChanged), "seed {seed}, lost {lost}");
            assert!(world.run_until(SECOND * 10, World::has_converged), "seed {seed}, lost {lost}");
            (lost + 1..=new).for_each(|id| world.crash(id));
        }
        assert!(world.run_until(SECOND * 20, |world| world.leader().is_some()), "seed {seed}");
    }
}

/// The answer is a promise: two of three members are enough from now on, and nobody needs the one that was let go. They must
/// know it, too, or look for a majority that is not there.
#[test]
fn once_a_change_is_answered_the_leader_can_be_lost_as_well() {
    for seed in 1..=50 {
        let mut world = World::new(3, seed);
        assert!(world.run_until(SECOND * 20, |world| world.leader().is_some()), "seed {seed}");
        let leader = world.leader().unwrap();
        let lost = leader % 3 + 1;
        world.lose_host(lost);
        world.add_host(4, BTreeMap::new());
        let change = Request::ChangeMembers { add: Some((4, "manager-4:1".to_owned())), remove: Some(lost) };
        assert_eq!(world.ask_leader(&change), Answer::Reply(Reply::MembersChanged), "seed {seed}");
        world.lose_host(leader);
        world.operate();
        assert!(world.run_until(SECOND * 30, World::has_converged), "seed {seed}: two of three lead nobody");
    }
}

#[test]
fn the_leader_itself_can_be_let_go_and_the_last_member_cannot() {
    let mut world = World::new(2, 5);
    assert!(world.run_until(SECOND * 20, |world| world.leader().is_some()));
    let leader = world.leader().unwrap();
    let gone = Request::ChangeMembers { add: None, remove: Some(leader) };
    assert_eq!(world.ask_leader(&gone), Answer::Reply(Reply::MembersChanged));
    let last = 3 - leader;
    assert_eq!(world.leader(), Some(last));
    world.operate();
    world.lose_host(leader);
    assert!(world.run_until(SECOND * 5, World::has_converged), "it is alone and needs nobody");
    let answer = world.ask_leader(&Request::ChangeMembers { add: None, remove: Some(last) });
    assert!(matches!(answer, Answer::Refused(_)), "{answer:?}");
}

#[test]
fn a_member_that_was_not_taken_in_leads_nobody() {
    let mut world = World::new(1, 3);
    world.add_host(2, BTreeMap::new());
    world.run(SECOND * 20);
    assert_eq!(world.leader(), Some(1));
    assert_eq!(world.member(2).and_then(Member::leader), None);
    assert_eq!(world.member(2).map(Member::term), Some(0));
    let answer = world.ask(2, Request::Read).and_then(|ticket| world.answers.remove(&ticket));
    assert_eq!(answer, Some(Answer::TryAgain { leader: None }));
    assert!(world.run_until(Duration::from_millis(5), |_| true));
}
