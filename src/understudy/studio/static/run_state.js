/** What a run has done so far, from its events alone: no element is touched here. */

/**
 * Costs of one pass: `fixed`, `per_token` for each token that it reveals, `dense` for a full one.
 * `info` is what the server says of a run when it begins.
 */
export class RunState {
  constructor(info) {
    this.info = info;
    this.state = info.state === "waiting" ? "waiting" : "running";
    this.passes = Object.fromEntries(info.keys.map((key) => [key, 0]));
    this.milliseconds = Object.fromEntries(info.keys.map((key) => [key, []]));
    this.executed = 0;
    this.byReference = 0;
    this.at = Array(info.num_samples).fill(-1);
    this.made = Object.fromEntries(info.keys.map((key) => [key, new Set()]));
    this.working = null;
    this.result = null;
    this.message = null;
  }

  apply(event) {
    if (event.kind === "started") this.state = "running";
    else if (event.kind === "reveal") this.reveal(event);
    else this.finish(event);
  }

  reveal({ key, sample, step, positions, milliseconds }) {
    const tokens = positions.length;
    this.state = "running";
    this.passes[key] += 1;
    if (milliseconds !== null) this.milliseconds[key].push(milliseconds);
    this.executed += this.cost(key, tokens);
    this.byReference += this.cost(this.info.reference, tokens);
    this.at[sample] = step;
    this.made[key].add(step);
    this.working = key;
  }

  finish(event) {
    this.state = event.kind;
    this.working = null;
    if (event.kind === "done") this.result = event;
    if (event.kind === "failed") this.message = event.message;
  }

  cost(key, tokens) {
    const { fixed, per_token: perToken } = this.info.costs[key];
    return fixed + perToken * tokens;
  }

  get isOver() {
    return ["done", "failed", "cancelled"].includes(this.state);
  }

  get totalPasses() {
    return Object.values(this.passes).reduce((sum, value) => sum + value, 0);
  }

  /** Milliseconds at work, this run's own share of the passes it rode in. */
  get timeAtWork() {
    return Object.values(this.milliseconds).flat().reduce((sum, value) => sum + value, 0);
  }

  /** Median milliseconds of a pass of one sequence by key, which one slow pass does not move; null where it made none. */
  passTime(key) {
    const times = [...(this.milliseconds[key] ?? [])].sort((one, other) => one - other);
    return times.length ? (times[(times.length - 1) >> 1] + times[times.length >> 1]) / 2 : null;
  }

  /** FLOPs so far, and shares saved so far; those of the whole run once it is done. */
  get flops() {
    if (this.result) return this.result.flops;
    const { info } = this;
    const dense = this.at.reduce((sum, step) => sum + step + 1, 0) * info.costs[info.reference].dense;
    return {
      ...info.flops, // what is nominal is known beforehand
      executed: this.executed,
      executed_saved: dense ? 1 - this.executed / dense : null,
      schedule_saved: this.byReference ? 1 - this.executed / this.byReference : null,
    };
  }
}
