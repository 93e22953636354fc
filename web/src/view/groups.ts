/**
 * The transcript in groups of neighbours. While an answer grows, all groups but the last are the same values as before:
 * what is compared, laid out and painted with each word is a group and the list of groups, not a thread of any length.
 */

import type { Transcript, Turn } from "../protocol/transcript";

export const TURNS_PER_GROUP = 20;

export interface Group {
  /** Stays, whatever is put before, behind or into the group. */
  readonly key: string;
  readonly turns: readonly Turn[];
}

/** `transcript` in groups. What was grouped before stays in its group, as the same value where nothing of it changed. */
export function grouped(before: readonly Group[], transcript: Transcript): readonly Group[] {
  const firstId = before[0]?.turns[0]?.id;
  const joint = transcript.findIndex((turn) => turn.id === firstId);
  if (joint < 0) return chunks(transcript);
  const kept: Group[] = [];
  let at = joint;
  for (const group of before) {
    const now = keptOf(group, transcript, at);
    if (now.turns.length > 0) kept.push(now);
    at += now.turns.length;
    if (now.turns.length < group.turns.length) break;
  }
  return [...chunks(transcript.slice(0, joint)), ...extended(kept, transcript.slice(at))];
}

/** The group as it is now: its turns as far as they still follow each other from `at`. */
function keptOf(group: Group, transcript: Transcript, at: number): Group {
  if (group.turns.every((turn, index) => turn === transcript[at + index])) return group;
  const gone = group.turns.findIndex((turn, index) => turn.id !== transcript[at + index]?.id);
  return { key: group.key, turns: transcript.slice(at, at + (gone < 0 ? group.turns.length : gone)) };
}

/** `groups` and what comes behind them; the last one is filled up first. */
function extended(groups: readonly Group[], behind: Transcript): readonly Group[] {
  const last = groups.at(-1);
  if (!last || behind.length === 0) return [...groups, ...chunks(behind)];
  const room = Math.max(0, TURNS_PER_GROUP - last.turns.length);
  const filled = room === 0 ? last : { key: last.key, turns: [...last.turns, ...behind.slice(0, room)] };
  return [...groups.slice(0, -1), filled, ...chunks(behind.slice(room))];
}

function chunks(turns: Transcript): readonly Group[] {
  const groups: Group[] = [];
  for (let start = 0; start < turns.length; start += TURNS_PER_GROUP) {
    const some = turns.slice(start, start + TURNS_PER_GROUP);
    groups.push({ key: some[0]?.id ?? "", turns: some });
  }
  return groups;
}
