// A rose window drawn from rings of panes, each pane a slice of its ring with lead around it.

const SVG = "http://www.w3.org/2000/svg";

interface Ring {
  inner: number;
  outer: number;
  panes: number;
  turn: number;
  jewels: readonly string[];
}

const RINGS: readonly Ring[] = [
  { inner: 13, outer: 31, panes: 6, turn: 0.5, jewels: ["amber", "ruby"] },
  { inner: 31, outer: 58, panes: 12, turn: 0, jewels: ["sapphire", "clear", "emerald"] },
  { inner: 58, outer: 78, panes: 24, turn: 0.5, jewels: ["clear", "amethyst", "clear", "sapphire"] },
  { inner: 78, outer: 96, panes: 12, turn: 0, jewels: ["ruby", "clear", "amber", "clear"] },
];

export function rose(): SVGElement {
  const root = draw("svg", { viewBox: "-100 -100 200 200", class: "rose" });
  for (const ring of RINGS)
    for (let pane = 0; pane < ring.panes; pane++) {
      const jewel = ring.jewels[pane % ring.jewels.length] ?? "clear";
      root.append(draw("path", { d: slice(ring, pane), class: jewel }));
    }
  root.append(draw("circle", { r: "13", class: "amber" }), draw("circle", { r: "96", class: "rim" }));
  return root;
}

function slice(ring: Ring, pane: number): string {
  const angle = (2 * Math.PI) / ring.panes;
  const from = (pane + ring.turn) * angle - Math.PI / 2;
  const at = (radius: number, theta: number): string =>
    `${(radius * Math.cos(theta)).toFixed(2)} ${(radius * Math.sin(theta)).toFixed(2)}`;
  const { inner, outer } = ring;
  return (
    `M${at(inner, from)}L${at(outer, from)}A${outer} ${outer} 0 0 1 ${at(outer, from + angle)}` +
    `L${at(inner, from + angle)}A${inner} ${inner} 0 0 0 ${at(inner, from)}Z`
  );
}

function draw(tag: string, attributes: Record<string, string>): SVGElement {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
