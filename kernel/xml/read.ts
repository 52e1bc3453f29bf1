/** Reading a document by namespace and local name; prefixes mean nothing. */

/** The element's children that are elements, of these names if any are given. */
export function childrenOf(parent: Element, namespace?: string, name?: string): Element[] {
  const children: Element[] = [];
  for (let node = parent.firstChild; node; node = node.nextSibling)
    if (isElement(node) && (namespace === undefined || isNamed(node, namespace, name)))
      children.push(node);
  return children;
}

export function childOf(parent: Element, namespace: string, name: string): Element | undefined {
  return childrenOf(parent, namespace, name)[0];
}

/** The first in document order below `parent`. */
export function findBelow(
  parent: Element,
  isWanted: (element: Element) => boolean,
): Element | undefined {
  for (const child of childrenOf(parent)) {
    const found = isWanted(child) ? child : findBelow(child, isWanted);
    if (found) return found;
  }
  return undefined;
}

export function isNamed(element: Element, namespace: string, name?: string): boolean {
  return element.namespaceURI === namespace && (name === undefined || element.localName === name);
}

/** The element's own text and CDATA, as it stands. */
export function textOf(element: Element): string {
  let text = '';
  for (let node = element.firstChild; node; node = node.nextSibling)
    if (node.nodeType === 3 || node.nodeType === 4) text += node.nodeValue ?? '';
  return text;
}

export function attributeOf(
  element: Element,
  name: string,
  namespace: string | null = null,
): string | undefined {
  const found = element.getAttributeNodeNS(namespace, name) as Attr | null | undefined;
  return found?.value;
}

function isElement(node: Node): node is Element {
  return node.nodeType === 1;
}
