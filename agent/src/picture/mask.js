(() => {
  const known = "KNOWN";
  const nodesMax = 50000;
  let left = nodesMax;
  const isAddress = (text) => {
    try {
      return text.includes(":") ? !!new URL(`http://[${text}]/`) : text.split(".").every((part) => +part < 256);
    } catch {
      return false;
    }
  };
  const pattern = /(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\d|\.\d)|(?<![\w:.])(?:[\da-f]{0,4}:){2,7}(?:(?:\d{1,3}\.){3}\d{1,3}|[\da-f]{0,4})(?![\w:])/gi;
  const masked = (text) => text.replace(pattern, (found) => (found === known || !isAddress(found) ? found : "[address]"));
  const walk = (root) => {
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
    for (let node = root; node && left-- > 0; node = walker.nextNode()) {
      if (node.nodeType === Node.TEXT_NODE) {
        const text = masked(node.data);
        if (text !== node.data) node.data = text;
        continue;
      }
      for (const name of ["value", "placeholder"]) {
        if (typeof node[name] === "string" && masked(node[name]) !== node[name]) node[name] = masked(node[name]);
      }
      if (node.shadowRoot) walk(node.shadowRoot);
      if (node.tagName === "IFRAME" || node.tagName === "FRAME") {
        try {
          if (node.contentDocument) walk(node.contentDocument);
        } catch {}
      }
    }
  };
  walk(document);
  return left > 0;
})()
