"""What the demo's tiny model is taught: questions, answers, conversations of them.

Knows no tokenizer and no tensor.  The same random generator makes the same
conversations everywhere.
"""

from __future__ import annotations

from random import Random

QUESTIONS: tuple[tuple[str, str], ...] = (
    (
        "What is the capital of France?",
        "Paris is the capital of France, a city on the river Seine that is famous for the Eiffel Tower.",
    ),
    (
        "What is the capital of Japan?",
        "Tokyo is the capital of Japan, and with its suburbs it is one of the largest cities in the world.",
    ),
    (
        "What is the capital of Italy?",
        "Rome is the capital of Italy, where visitors still walk through the ruins of an ancient empire.",
    ),
    (
        "What is the capital of Egypt?",
        "Cairo is the capital of Egypt, a crowded city on the Nile not far from the pyramids.",
    ),
    (
        "Why is the sky blue?",
        "Sunlight is scattered by the air, and blue light is scattered much more than red light.",
    ),
    (
        "Why is the sea salty?",
        "Rivers carry salt from the rocks into the sea, and when the water dries the salt stays behind.",
    ),
    (
        "Why do cats purr?",
        "Cats purr when they are calm and happy, and sometimes also to comfort themselves when they are hurt.",
    ),
    (
        "Why do leaves turn red in autumn?",
        "Leaves lose their green colour when the days grow short, and then the red and yellow below can be seen.",
    ),
    (
        "Why do we have seasons?",
        "Seasons come from the tilt of the Earth, which leans towards the sun in summer and away in winter.",
    ),
    (
        "Why does ice float on water?",
        "Ice floats because frozen water takes more room than liquid water, so it weighs less for its size.",
    ),
    (
        "How do bees make honey?",
        "Bees collect nectar from flowers, carry it home, and fan it with their wings until it becomes thick honey.",
    ),
    (
        "How do plants eat?",
        "Plants make sugar from sunlight, air and water in their leaves, and take minerals from the soil.",
    ),
    (
        "How do birds find their way?",
        "Birds follow the sun, the stars and the magnetic field of the Earth when they fly south in autumn.",
    ),
    (
        "How does a bicycle stay upright?",
        "A moving bicycle steers itself into the direction in which it begins to fall, and so it stays up.",
    ),
    (
        "How do I boil an egg?",
        "Put the egg in boiling water for seven minutes, then cool it in cold water before you peel it.",
    ),
    (
        "How do I make tea?",
        "Pour hot water over the tea leaves, wait for three minutes, and add milk or lemon if you like.",
    ),
    (
        "How do I bake bread?",
        "Mix flour, water, salt and yeast, let the dough rest until it doubles, and bake it in a hot oven.",
    ),
    (
        "How do I remove a coffee stain?",
        "Rinse the stain with cold water at once, rub in a little soap, and wash the cloth as usual.",
    ),
    (
        "How far away is the moon?",
        "The moon is about three hundred and eighty thousand kilometres away, a little more than one second for light.",
    ),
    (
        "How old is the Earth?",
        "Our planet is about four and a half billion years old, as the oldest rocks and meteorites tell us.",
    ),
    (
        "How tall is Mount Everest?",
        "Everest is almost nine kilometres tall, which makes it the highest mountain above the level of the sea.",
    ),
    (
        "How fast is a cheetah?",
        "A cheetah runs at about one hundred kilometres an hour, but only for half a minute before it must rest.",
    ),
    (
        "How many bones do we have?",
        "Grown people have two hundred and six bones, while a baby is born with almost three hundred.",
    ),
    (
        "How many legs does a spider have?",
        "Every spider has eight legs, which is two more than an insect, so a spider is not an insect.",
    ),
    (
        "Which planet is the largest?",
        "Jupiter is the largest planet around the sun, so big that all the other planets would fit inside.",
    ),
    (
        "Which animal is the largest?",
        "The blue whale is the largest animal that ever lived, longer than two buses and heavier than twenty elephants.",
    ),
    (
        "Which river is the longest?",
        "Most people say that the Nile is the longest river, although some who measured prefer the Amazon.",
    ),
    (
        "Which metal is liquid?",
        "Mercury is a metal that is liquid in a warm room, and it was once used in every thermometer.",
    ),
    (
        "Who painted the Mona Lisa?",
        "Leonardo da Vinci painted the Mona Lisa five hundred years ago, and today she hangs in the Louvre in Paris.",
    ),
    (
        "Who wrote Romeo and Juliet?",
        "William Shakespeare wrote Romeo and Juliet, a play about two young lovers whose families are enemies.",
    ),
    (
        "Who invented the telephone?",
        "Alexander Graham Bell received the patent for the telephone, though others had built similar machines before him.",
    ),
    (
        "Who was the first person in space?",
        "Yuri Gagarin was the first person in space, and he flew once around the Earth in less than two hours.",
    ),
    (
        "What do pandas eat?",
        "Pandas eat bamboo for most of the day, because it feeds them so poorly that they need a great deal.",
    ),
    (
        "What is inside a volcano?",
        "Below a volcano lies a chamber of melted rock, which rises through cracks until it flows out as lava.",
    ),
    (
        "What makes a rainbow?",
        "A rainbow appears when sunlight enters drops of rain, bends, and comes back out split into its colours.",
    ),
    (
        "What should I pack for a picnic?",
        "For a picnic take sandwiches, fruit, plenty of water, a blanket, and a bag for what is left over.",
    ),
)
"""Every question with its only answer, for the demo to ask."""

SYSTEM_PROMPTS: tuple[str, ...] = (
    "You are a helpful assistant.",
    "You are a friendly assistant who answers in one sentence.",
    "Answer briefly and truthfully.",
)

_NOTICE = (
    'NOTICE: Conversation regarding "{topic}" has been moved to long-term memory. '
    "Use search_memory to recall it."
)


def corpus_texts() -> list[str]:
    """Every content once, for a tokenizer to learn from."""
    return [text for pair in QUESTIONS for text in pair] + [*SYSTEM_PROMPTS, _NOTICE]


def conversation(random: Random, num_turns: int) -> list[dict[str, str]]:
    """Shuffled questions with their answers; at times a system prompt, at times a notice."""
    messages: list[dict[str, str]] = []
    if random.random() < 0.5:
        messages.append({"role": "system", "content": random.choice(SYSTEM_PROMPTS)})
    for question, answer in random.sample(QUESTIONS, num_turns):
        if random.random() < 0.1:
            topic, _ = random.choice(QUESTIONS)
            messages.append({"role": "system", "content": _NOTICE.format(topic=topic)})
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return messages
