// Where numbers go on an axis, and which of them are written there.

function niceStep(span, count) {
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  return power * [1, 2, 5, 10].find((multiple) => multiple * power >= raw * 0.999);
}

function linearTicks(low, high, count) {
  const step = niceStep(high - low, count);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-12) + 1e-12; i++) {
    ticks.push({ at: i * step, told: (i * step).toFixed(digits) });
  }
  return ticks;
}

function linearScale(values, from, to) {
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
  [low, high] = [low - margin, high + margin];
  return {
    place: (value) => from + ((value - low) / (high - low)) * (to - from),
    ticks: linearTicks(low, high, Math.max(2, Math.abs(to - from) / 45)),
  };
}

function short(value) {
  for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= unit * 0.9995) return `${Number((value / unit).toPrecision(3))}${letter}`;
  }
  return String(Number(value.toPrecision(3)));
}

function logTicks(low, high, most) {
  for (const multiples of [[1], [1, 3], [1, 2, 5]]) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
      ticks.push(...multiples.map((m) => m * 10 ** power).filter((value) => value >= low && value <= high));
    }
    if (ticks.length >= 3 || (ticks.length === 2 && multiples.length === 3)) {
      const every = Math.ceil(ticks.length / most);
      return ticks.filter((_, i) => i % every === 0).map((value) => ({ at: value, told: short(value) }));
    }
  }
  const places = linearTicks(low, high, most - 1).map(({ at }) => at);
  const distinct = new Set(places.map(short)).size === places.length;
  return places.map((at) => ({ at, told: distinct ? short(at) : at.toLocaleString("en-US") }));
}

// Logarithmic; a zero has no logarithm and gets a place of its own at the left.
function logScale(values, from, to) {
  const zero = values.some((value) => value <= 0);
  const start = zero ? from + 34 : from;
  const positive = values.filter((value) => value > 0);
  if (!positive.length) return { place: () => from + 10, ticks: [{ at: 0, told: "0" }] };
  const [least, most] = [Math.log10(Math.min(...positive)), Math.log10(Math.max(...positive))];
  const margin = (most - least) * 0.06 || 0.15;
  const [low, high] = [least - margin, most + margin];
  const ticks = logTicks(10 ** low, 10 ** high, Math.max(2, Math.floor((to - start) / 62)));
  return {
    place: (value) => (value > 0 ? start + ((Math.log10(value) - low) / (high - low)) * (to - start) : from + 10),
    ticks: zero ? [{ at: 0, told: "0" }, ...ticks] : ticks,
    gap: zero ? start - 8 : null,
  };
}
