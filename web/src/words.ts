// Every word of the page, in English and in Portuguese.

export type Language = "en" | "pt";

const en = {
  skip: "Skip to the message",
  model: "Model",
  controls: "Controls",
  conversation: "Conversation",
  fresh: "New chat",
  freshLabel: "Start a new conversation",
  tint: "Tint",
  language: "PT",
  languageLabel: "Mudar para português",
  settings: "Settings",
  welcome: "A window into the model",
  explain: "Each piece of an answer is a pane of glass: its colour says how sure the model was, and pointing at it shows what else it could have said.",
  prompt: "Write a message",
  send: "Send",
  stop: "Stop",
  keys: "Enter sends · Shift+Enter breaks the line · Esc stops",
  sure: "sure",
  doubtful: "doubtful",
  system: "System prompt",
  temperature: "Temperature",
  topP: "Top p",
  maxTokens: "At most (tokens)",
  seed: "Seed",
  theme: "Colours",
  themeSystem: "as the system",
  themeLight: "light",
  themeDark: "dark",
  key: "API key",
  modelDefault: "the model's",
  contextEnd: "the context's end",
  random: "random",
  none: "none",
  reset: "Reset",
  done: "Done",
  you: "You",
  copy: "Copy",
  copied: "Copied",
  again: "Regenerate",
  read: "What the model read",
  counts: "{read} tokens read, {written} written",
  speed: "{speed} tokens/s",
  context: "context",
  stopped: "stopped",
  lengthReached: "cut at the token limit",
  chosen: "chosen",
  others: "all others",
  logprob: "log p",
  token: "token",
  tokensOfCharacter: "tokens make this piece",
  endOfAnswer: "The answer ends here",
  answerTokens: "Answer; the arrow keys go from token to token",
  answering: "Answering",
  finished: "Answer finished",
  error: "Error",
  unreachable: "The server does not answer. Is it still running?",
  streamCut: "The connection broke before the answer was finished.",
  needsKey: "This server asks for an API key. Give it in the settings.",
  noModel: "This server has no model that chats.",
  examples: ["What is the capital of France?", "Write a haiku about stained glass.", "Why is the sky blue?"],
};

export type Words = typeof en;

const pt: Words = {
  skip: "Ir para a mensagem",
  model: "Modelo",
  controls: "Controles",
  conversation: "Conversa",
  fresh: "Nova",
  freshLabel: "Começar uma conversa nova",
  tint: "Cores",
  language: "EN",
  languageLabel: "Switch to English",
  settings: "Ajustes",
  welcome: "Uma janela para dentro do modelo",
  explain: "Cada pedaço de uma resposta é um caco de vidro: a cor diz quanta certeza o modelo tinha, e apontar para ele mostra o que mais poderia ter dito.",
  prompt: "Escreva uma mensagem",
  send: "Enviar",
  stop: "Parar",
  keys: "Enter envia · Shift+Enter quebra a linha · Esc para",
  sure: "certeza",
  doubtful: "dúvida",
  system: "Instrução de sistema",
  temperature: "Temperatura",
  topP: "Top p",
  maxTokens: "No máximo (tokens)",
  seed: "Semente",
  theme: "Aparência",
  themeSystem: "como o sistema",
  themeLight: "clara",
  themeDark: "escura",
  key: "Chave de API",
  modelDefault: "a do modelo",
  contextEnd: "o fim do contexto",
  random: "aleatória",
  none: "nenhuma",
  reset: "Restaurar",
  done: "Pronto",
  you: "Você",
  copy: "Copiar",
  copied: "Copiado",
  again: "Gerar de novo",
  read: "O que o modelo leu",
  counts: "{read} tokens lidos, {written} escritos",
  speed: "{speed} tokens/s",
  context: "de contexto",
  stopped: "interrompida",
  lengthReached: "cortada no limite de tokens",
  chosen: "escolhido",
  others: "todos os outros",
  logprob: "log p",
  token: "token",
  tokensOfCharacter: "tokens formam este pedaço",
  endOfAnswer: "A resposta termina aqui",
  answerTokens: "Resposta; as setas vão de token em token",
  answering: "Respondendo",
  finished: "Resposta pronta",
  error: "Erro",
  unreachable: "O servidor não responde. Ele ainda está rodando?",
  streamCut: "A conexão caiu antes de a resposta terminar.",
  needsKey: "Este servidor pede uma chave de API. Informe-a nos ajustes.",
  noModel: "Este servidor não tem modelo que converse.",
  examples: ["Qual é a capital da França?", "Escreva um haicai sobre vitrais.", "Por que o céu é azul?"],
};

export const WORDS: Record<Language, Words> = { en, pt };

/** The names of the words that are one text. */
export type Label = { [K in keyof Words]: Words[K] extends string ? K : never }[keyof Words];

/** Marks an element as saying a word, so that `translate` keeps it in the page's language. */
export function say<E extends HTMLElement>(element: E, label: Label, language: Language): E {
  element.dataset["t"] = label;
  element.textContent = WORDS[language][label];
  return element;
}

/** Writes the words of a language into everything marked data-t, data-t-label and data-t-placeholder. */
export function translate(root: ParentNode, language: Language): void {
  const words = WORDS[language];
  const word = (name: string | undefined): string => words[name as Label];
  for (const element of root.querySelectorAll<HTMLElement>("[data-t]")) element.textContent = word(element.dataset["t"]);
  for (const element of root.querySelectorAll<HTMLElement>("[data-t-label]"))
    element.setAttribute("aria-label", word(element.dataset["tLabel"]));
  for (const element of root.querySelectorAll<HTMLElement>("[data-t-placeholder]"))
    element.setAttribute("placeholder", word(element.dataset["tPlaceholder"]));
}
