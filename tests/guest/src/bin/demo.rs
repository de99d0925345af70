// SPDX-License-Identifier: GPL-2.0

//! One side of the conversation that `make demo` shows: A is the first guest, B the second.

use std::fs;
use std::io::stdout;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use guest::abi::*;
use guest::dev::{self, Device, Map, PAGE};
use guest::host::barrier;
use guest::{guest, task};

/// Whom a vector is for, and what it says.
const LETTER_FOR_B: u32 = 1;
const LETTER_FOR_A: u32 = 2;
const BALL_FOR_B: u32 = 0;
const BALL_FOR_A: u32 = 3;

/// Where each side writes its letters.
const LETTERS: [usize; 2] = [0, PAGE];
/// Words: where each side writes its ID, and the number on the ball that it plays.
const IDS: usize = 2 * PAGE / 8;
const BALLS: usize = 3 * PAGE / 8;

const ROUNDS: u64 = 1000;

/// Tells whoever watches, and returns when they can see it.
fn say(line: &str) {
    println!("{line}");
    rustix::termios::tcdrain(stdout()).expect("the line to the host");
}

struct Side {
    me: usize,
    device: Device,
    memory: Map,
}

impl Side {
    fn introduce(&self) {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy();
        let info = self.device.info();
        let memory_type = dev::attribute("memory_type").expect("an attribute");
        say(&format!("Linux {release}, ivshmem.ko is loaded"));
        say(&format!(
            "/dev/ivshmem0: ID {}, {} MiB shared ({memory_type}), {} vectors (MSI-X)",
            info.ivposition,
            info.size >> 20,
            info.vectors
        ));
        assert_eq!(info.interrupt, IVSHMEM_INTERRUPT_MSIX);
        self.memory.words()[IDS + self.me].store(info.ivposition as u64, Relaxed);
    }

    /// The ID of the other side.
    fn peer(&self) -> u32 {
        self.memory.words()[IDS + 1 - self.me].load(Relaxed) as u32
    }

    fn write(&self, letter: &str) {
        let place = &self.memory.bytes()[LETTERS[self.me]..];
        for (to, from) in place.iter().zip(letter.bytes().chain([0])) {
            to.store(from, Relaxed);
        }
    }

    /// What the other side has written.
    fn letter(&self) -> String {
        let place = self.memory.bytes()[LETTERS[1 - self.me]..].iter();
        let bytes = place.map(|byte| byte.load(Relaxed));
        String::from_utf8(bytes.take_while(|byte| *byte != 0).collect()).expect("a letter")
    }

    /// What a wait for a vector has ended with.
    fn tell(&self, vector: u32, count: u64) {
        let letter = self.letter();
        say(&format!(
            "woken by vector {vector}, count {count}; reads \"{letter}\""
        ));
    }

    fn ring(&self, vector: u32) {
        self.device.ring(self.peer(), vector).expect("DOORBELL");
    }

    /// Plays the number to the other side.
    fn play(&self, vector: u32, number: u64) {
        self.memory.words()[BALLS + self.me].store(number, Relaxed);
        self.ring(vector);
    }

    /// Waits for the other side to play this number.
    fn receive(&self, vector: u32, seen: &mut u64, number: u64) {
        *seen = self.device.moved(vector, *seen);
        let ball = self.memory.words()[BALLS + 1 - self.me].load(Relaxed);
        assert_eq!(ball, number, "the number that was played");
    }

    fn show_interrupts(&self) {
        let interrupts = fs::read_to_string("/proc/interrupts").expect("the interrupts");
        say("of /proc/interrupts, while somebody listens:");
        for line in interrupts.lines().filter(|line| line.contains("ivshmem0-")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            say(&format!("    {}", words.join("  ")));
        }
    }
}

fn a(side: &Side) {
    barrier("B is asleep");
    let letter = "Hello B, this is A.";
    side.write(letter);
    say(&format!("writes \"{letter}\" into the shared memory"));
    let peer = side.peer();
    say(&format!(
        "rings peer {peer}, vector {LETTER_FOR_B}, and sleeps in WAIT for vector {LETTER_FOR_A}"
    ));
    let seen = side.device.count(LETTER_FOR_A);
    side.ring(LETTER_FOR_B);
    side.tell(LETTER_FOR_A, side.device.moved(LETTER_FOR_A, seen));

    let mut seen = side.device.count(BALL_FOR_A);
    barrier("play");
    say(&format!(
        "{ROUNDS} pings on vector {BALL_FOR_B}, {ROUNDS} pongs on vector {BALL_FOR_A}"
    ));
    let start = Instant::now();
    for round in 1..=ROUNDS {
        side.play(BALL_FOR_B, round);
        side.receive(BALL_FOR_A, &mut seen, round);
    }
    let elapsed = start.elapsed();
    assert_eq!(dev::delivered(BALL_FOR_A), ROUNDS, "an interrupt for each");
    say(&format!(
        "none lost: {:.1} s, {} us there and back",
        elapsed.as_secs_f32(),
        elapsed.as_micros() / u128::from(ROUNDS)
    ));
    side.show_interrupts();
    barrier("B's turn");
}

fn b(side: &Arc<Side>) {
    let sleeper = {
        let side = side.clone();
        let seen = side.device.count(LETTER_FOR_B);
        task::spawn(move || side.device.moved(LETTER_FOR_B, seen))
    };
    sleeper.asleep();
    say(&format!("asleep in WAIT, for vector {LETTER_FOR_B}"));
    barrier("B is asleep");
    side.tell(LETTER_FOR_B, sleeper.join());
    let letter = "Hello A, I was asleep, and you woke me.";
    side.write(letter);
    let peer = side.peer();
    say(&format!(
        "writes \"{letter}\" and rings peer {peer}, vector {LETTER_FOR_A}"
    ));
    side.ring(LETTER_FOR_A);

    let mut seen = side.device.count(BALL_FOR_B);
    barrier("play");
    for round in 1..=ROUNDS {
        side.receive(BALL_FOR_B, &mut seen, round);
        side.play(BALL_FOR_A, round);
    }
    assert_eq!(dev::delivered(BALL_FOR_B), ROUNDS, "an interrupt for each");
    barrier("B's turn");
    side.show_interrupts();
}

fn main() {
    let device = Device::open();
    let memory = device.map(0, 4 * PAGE);
    let side = Arc::new(Side {
        me: guest(),
        device,
        memory,
    });
    side.introduce();
    barrier("both are there");
    if side.me == 0 { a(&side) } else { b(&side) }
}
