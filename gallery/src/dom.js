// Elements with attributes and children. Texts become text nodes, so that no text is ever markup.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// A menu of [value, text] pairs.
export function menu(pairs, chosen, onchange, attributes = {}) {
  const made = element(
    "select",
    { ...attributes, onchange: () => onchange(made.value) },
    ...pairs.map(([value, text]) => element("option", { value }, text)),
  );
  made.value = chosen;
  return made;
}

export const labelled = (text, control) => element("label", {}, element("span", {}, text), control);
