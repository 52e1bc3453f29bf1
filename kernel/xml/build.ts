import { DOMImplementation, XMLSerializer } from '@xmldom/xmldom';

/** An element to be: name, attributes (an `undefined` one is left out), children. */
export type XmlNode = {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string | number | undefined>>;
  readonly children: readonly (XmlNode | string)[];
};

type Child = XmlNode | string | false | undefined;

/** `element('vcpu', {}, '2')`. Escaping is the serialiser's; children that are not there are left out. */
export function element(
  name: string,
  attributes: XmlNode['attributes'] = {},
  ...children: readonly Child[]
): XmlNode {
  return {
    name,
    attributes,
    children: children.filter((child) => child !== false && child !== undefined),
  };
}

/** Text of a document with `root` as its element. */
export function toXml(root: XmlNode): string {
  const document = new DOMImplementation().createDocument(null, null, null);
  const build = (node: XmlNode): Element => {
    const target = document.createElement(node.name);
    for (const [key, value] of Object.entries(node.attributes))
      if (value !== undefined) target.setAttribute(key, String(value));
    for (const child of node.children)
      target.appendChild(typeof child === 'string' ? document.createTextNode(child) : build(child));
    return target;
  };
  return new XMLSerializer().serializeToString(build(root));
}
