//! What Redis executes as a whole: scripts, and transactions where no script is needed.

use super::command::{Command, Script};
use super::names::Names;
use crate::entry::{self, StoredEntry};
use crate::store::Change;

/// The code of the error for a namespace that is too large to be read as a whole.
pub(super) const TOO_LARGE: &str = "WWSTOOLARGE";

/// The code of the error for a value that is no number to add to.
pub(super) const NOT_A_NUMBER: &str = "WWSNOTANUMBER";

/// Sets or removes keys, unless the turn with the token of the first argument was lost.
static APPLY: Script = Script::new(
    "if ARGV[1] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
for i = 3, #ARGV, 4 do
  local key = ARGV[2] .. ARGV[i]
  if ARGV[i + 1] == 'd' then
    redis.call('DEL', key)
    redis.call('ZREM', KEYS[1], ARGV[i])
  else
    if ARGV[i + 3] == '0' then redis.call('SET', key, ARGV[i + 2])
    else redis.call('SET', key, ARGV[i + 2], 'PX', ARGV[i + 3]) end
    redis.call('ZADD', KEYS[1], 0, ARGV[i])
  end
end
return 1",
);

/// Returns the number of keys that were looked at, the last of them, and those that exist.
static LIST: Script = Script::new(
    "local names = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])
local found = {}
for _, name in ipairs(names) do
  if redis.call('EXISTS', ARGV[1] .. name) == 1 then found[#found + 1] = name
  else redis.call('ZREM', KEYS[1], name) end
end
return { #names, names[#names] or '', found }",
);

/// Returns whether more keys follow, the last key that was looked at, and those that exist with
/// their values and times to live. Stops after a number of bytes.
static ENTRIES: Script = Script::new(
    "local names = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])
local found, bytes, last = {}, 0, ''
for i, name in ipairs(names) do
  last = name
  local key = ARGV[1] .. name
  local value = redis.call('GET', key)
  if value then
    found[#found + 1] = { name, value, redis.call('PTTL', key) }
    bytes = bytes + #name + #value
    if bytes >= tonumber(ARGV[5]) and i < #names then return { 1, last, found } end
  end
end
return { #names == tonumber(ARGV[4]) and 1 or 0, last, found }",
);

/// Removes a key. Returns whether it existed.
static REMOVE: Script = Script::new(
    "redis.call('ZREM', KEYS[1], ARGV[1])
return redis.call('DEL', KEYS[2])",
);

/// Returns all keys and values.
static SNAPSHOT: Script = Script::new(
    "local names = redis.call('ZRANGE', KEYS[1], 0, ARGV[2])
local found, bytes, most = {}, 0, tonumber(ARGV[3])
if #names > tonumber(ARGV[2]) then return redis.error_reply('WWSTOOLARGE too many keys') end
for from = 1, #names, 500 do
  local keys = {}
  for i = from, math.min(from + 499, #names) do keys[#keys + 1] = ARGV[1] .. names[i] end
  for i, value in ipairs(redis.call('MGET', unpack(keys))) do
    local name = names[from + i - 1]
    if value then
      bytes = bytes + #name + #value
      if bytes > most then return redis.error_reply('WWSTOOLARGE too many bytes') end
      found[#found + 1] = { name, value }
    else redis.call('ZREM', KEYS[1], name) end
  end
end
return found",
);

/// Returns the sum as a text: numbers of scripts are not exact.
static INCREMENT: Script = Script::new(
    "local sum = redis.pcall('INCRBY', KEYS[2], ARGV[2])
if type(sum) == 'table' and sum.err then
  if string.find(sum.err, 'integer') or string.find(sum.err, 'overflow') then
    return redis.error_reply('WWSNOTANUMBER not a number to add to')
  end
  return sum
end
redis.call('ZADD', KEYS[1], 0, ARGV[1])
return redis.call('GET', KEYS[2])",
);

static COMPARE_AND_SWAP: Script = Script::new(
    "local now = redis.call('GET', KEYS[2])
if ARGV[4] == '1' then
  if now ~= ARGV[5] then return 0 end
elseif now then return 0 end
if ARGV[3] == '0' then redis.call('SET', KEYS[2], ARGV[2])
else redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3]) end
redis.call('ZADD', KEYS[1], 0, ARGV[1])
return 1",
);

/// Keeps a turn, if it still is ours.
static RENEW: Script = Script::new(
    "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])",
);

/// Passes a turn on, if it still is ours.
static RELEASE: Script = Script::new(
    "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])",
);

/// Milliseconds after which the key of a change is removed; 0 for never.
fn milliseconds(change: &Change) -> u64 {
    let ttl = change.value().and_then(|(_, ttl)| ttl);
    ttl.map_or(0, entry::milliseconds)
}

/// Sets or removes keys, in a turn if there is a token.
pub(super) fn apply(names: &Names, changes: &[Change], token: Option<&str>) -> Command {
    let mut command = Command::script(&APPLY, &[&names.index(), &names.turn()]);
    command.arg(token.unwrap_or_default()).arg(names.entries());
    for change in changes {
        let (kind, value) = match change.value() {
            Some((value, _)) => ("s", value),
            None => ("d", ""),
        };
        command.arg(change.key()).arg(kind).arg(value);
        command.number(milliseconds(change));
    }
    command
}

/// Sets or removes a key: two commands cost Redis less than a script.
pub(super) fn apply_one(names: &Names, change: &Change) -> Command {
    let (entry, index) = (names.entry(change.key()), names.index());
    match change.value() {
        Some((value, ttl)) => {
            let mut set = Command::new("SET");
            set.arg(entry).arg(value);
            if ttl.is_some() {
                set.arg("PX").number(milliseconds(change));
            }
            let mut add = Command::new("ZADD");
            add.arg(index).arg("0").arg(change.key());
            Command::transaction(&[set, add])
        }
        None => {
            let mut delete = Command::new("DEL");
            delete.arg(entry);
            let mut remove = Command::new("ZREM");
            remove.arg(index).arg(change.key());
            Command::transaction(&[delete, remove])
        }
    }
}

/// Stores entries of a namespace.
pub(super) fn put(names: &Names, entries: &[StoredEntry]) -> Command {
    let mut command = Command::script(&APPLY, &[&names.index(), &names.turn()]);
    command.arg("").arg(names.entries());
    for entry in entries {
        command.arg(&entry.key).arg("s").arg(&entry.value);
        command.number(entry.ttl().map_or(0, entry::milliseconds));
    }
    command
}

/// The range of keys with a prefix, after a key.
fn range(prefix: &str, after: Option<&str>) -> (String, Vec<u8>) {
    let from = match after {
        Some(after) if after >= prefix => format!("({after}"),
        _ => format!("[{prefix}"),
    };
    // No text has this byte.
    let mut to = format!("({prefix}").into_bytes();
    to.push(0xff);
    (from, to)
}

/// A page of entries: of `keys` keys, or until `bytes` bytes are reached.
pub(super) fn entries(
    names: &Names,
    prefix: &str,
    after: Option<&str>,
    keys: usize,
    bytes: usize,
) -> Command {
    let (from, to) = range(prefix, after);
    let mut command = Command::script(&ENTRIES, &[&names.index()]);
    command.arg(names.entries()).arg(from).arg(to);
    command.number(keys as u64).number(bytes as u64);
    command
}

pub(super) fn remove(names: &Names, key: &str) -> Command {
    let mut command = Command::script(&REMOVE, &[&names.index(), &names.entry(key)]);
    command.arg(key);
    command
}

pub(super) fn list(names: &Names, prefix: &str, after: Option<&str>, limit: usize) -> Command {
    let (from, to) = range(prefix, after);
    let mut command = Command::script(&LIST, &[&names.index()]);
    command.arg(names.entries()).arg(from).arg(to);
    command.number(limit as u64);
    command
}

pub(super) fn snapshot(names: &Names, keys: usize, bytes: usize) -> Command {
    let mut command = Command::script(&SNAPSHOT, &[&names.index()]);
    command.arg(names.entries());
    command.number(keys as u64).number(bytes as u64);
    command
}

/// Returns the keys and values of a namespace, in turns, up to a number of keys; no value for those
/// whose time has passed. `None` if the namespace's name does not allow that.
pub(super) fn small_snapshot(names: &Names, keys: usize) -> Option<Command> {
    let pattern = names.entry("*");
    // The first star is replaced by each key.
    if pattern.matches('*').count() > 1 {
        return None;
    }
    let mut command = Command::new("SORT");
    command.arg(names.index()).arg("BY").arg("nosort");
    command.arg("LIMIT").arg("0").number(keys as u64);
    command.arg("GET").arg("#").arg("GET").arg(pattern);
    Some(command)
}

pub(super) fn increment(names: &Names, key: &str, delta: i64) -> Command {
    let mut command = Command::script(&INCREMENT, &[&names.index(), &names.entry(key)]);
    command.arg(key).arg(delta.to_string());
    command
}

pub(super) fn compare_and_swap(names: &Names, expected: Option<&str>, change: &Change) -> Command {
    let key = change.key();
    let value = change.value().map_or("", |(value, _)| value);
    let mut command = Command::script(&COMPARE_AND_SWAP, &[&names.index(), &names.entry(key)]);
    command.arg(key).arg(value).number(milliseconds(change));
    command.number(u64::from(expected.is_some()));
    command.arg(expected.unwrap_or_default());
    command
}

pub(super) fn renew(turn: &str, token: &str, milliseconds: u64) -> Command {
    let mut command = Command::script(&RENEW, &[turn]);
    command.arg(token).number(milliseconds);
    command
}

pub(super) fn release(turn: &str, token: &str) -> Command {
    let mut command = Command::script(&RELEASE, &[turn]);
    command.arg(token);
    command
}
